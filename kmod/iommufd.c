// SPDX-License-Identifier: GPL-2.0
/*
 * iommufd, by functions that kmod/patches adds. In a kernel without the patches
 * the kind is not supported. iommufd.ko may be loaded after this module: see
 * optional.h.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/iommu.h>
#include <linux/iommufd.h>

#include "optional.h"
#include "passthrough.h"
#include "shim.h"

#ifdef FDBOX_PASSTHROUGH

enum fdbox_lacks fdbox_shim_iommufd_lacks(void)
{
	if (!fdbox_has(pci_keep) ||
	    (!fdbox_has(intel_iommu_keep) && !fdbox_has(amd_iommu_keep)))
		return FDBOX_LACKS_PATCH;
	return fdbox_has(iommufd_create) ? FDBOX_LACKS_NOTHING : FDBOX_LACKS_MODULE;
}

void *fdbox_shim_iommufd_of(struct file *file)
{
	return iommufd_file_ctx(file);
}

int fdbox_shim_iommufd_freeze(void *ctx)
{
	return iommufd_ctx_freeze(ctx);
}

void fdbox_shim_iommufd_thaw(void *ctx)
{
	iommufd_ctx_thaw(ctx);
}

struct fdbox_visit {
	const struct fdbox_iommufd_visitor *visitor;
	void *data;
};

static int fdbox_visit_ioas(void *data, u32 id)
{
	struct fdbox_visit *visit = data;

	return visit->visitor->ioas(visit->data, id);
}

static int fdbox_visit_map(void *data, const struct iommufd_file_map *map)
{
	struct fdbox_visit *visit = data;
	struct fdbox_iommufd_map out = {
		.ioas = map->ioas_id,
		.prot = map->prot & (IOMMU_READ | IOMMU_WRITE),
		.iova = map->iova,
		.length = map->length,
		.start = map->start,
		.file = map->file,
	};

	static_assert(IOMMU_READ == 1 && IOMMU_WRITE == 2);
	if (map->prot & ~(IOMMU_READ | IOMMU_WRITE | IOMMU_CACHE))
		return visit->visitor->other(visit->data, map->ioas_id,
					     "mapping with unusual rights");
	return visit->visitor->map(visit->data, &out);
}

static int fdbox_visit_other(void *data, u32 id, const char *what)
{
	struct fdbox_visit *visit = data;

	return visit->visitor->other(visit->data, id, what);
}

int fdbox_shim_iommufd_visit(void *ctx, const struct fdbox_iommufd_visitor *visitor,
			     void *data)
{
	static const struct iommufd_visitor all = {
		.ioas = fdbox_visit_ioas,
		.map = fdbox_visit_map,
		.other = fdbox_visit_other,
	};
	struct fdbox_visit visit = { .visitor = visitor, .data = data };

	return iommufd_ctx_visit(ctx, &all, &visit);
}

struct file *fdbox_shim_iommufd_create(void)
{
	return iommufd_create();
}

int fdbox_shim_iommufd_add_ioas(void *ctx, u32 id)
{
	return iommufd_restore_ioas(ctx, id);
}

int fdbox_shim_iommufd_add_map(void *ctx, const struct fdbox_iommufd_map *map)
{
	struct iommufd_file_map in = {
		.ioas_id = map->ioas,
		.prot = map->prot | IOMMU_CACHE,
		.iova = map->iova,
		.length = map->length,
		.start = map->start,
		.file = map->file,
	};

	return iommufd_restore_map(ctx, &in);
}

#else

enum fdbox_lacks fdbox_shim_iommufd_lacks(void)
{
	return FDBOX_LACKS_PATCH;
}

void *fdbox_shim_iommufd_of(struct file *file)
{
	return NULL;
}

int fdbox_shim_iommufd_freeze(void *ctx)
{
	return -EOPNOTSUPP;
}

void fdbox_shim_iommufd_thaw(void *ctx)
{
}

int fdbox_shim_iommufd_visit(void *ctx, const struct fdbox_iommufd_visitor *visitor,
			     void *data)
{
	return -EOPNOTSUPP;
}

struct file *fdbox_shim_iommufd_create(void)
{
	return ERR_PTR(-EOPNOTSUPP);
}

int fdbox_shim_iommufd_add_ioas(void *ctx, u32 id)
{
	return -EOPNOTSUPP;
}

int fdbox_shim_iommufd_add_map(void *ctx, const struct fdbox_iommufd_map *map)
{
	return -EOPNOTSUPP;
}

#endif
