//! Which of the kernel's selftests run, and in which host.

use fdbox_lab::scenario::Devices;

use crate::kernel::Flavour;

/// Tests that share a host. It runs with patched kernels, and with unpatched ones if a comparison
/// is needed.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: &'static str,
    /// The kernels of the host; a test has a command for some of them, starting with the first.
    pub(super) unpatched: &'static [Flavour],
    pub(super) patched: &'static [Flavour],
    pub(super) memory_mib: u64,
    /// Appended to the kernels' command line.
    pub(super) cmdline: &'static str,
    pub(super) devices: Devices,
    /// Run with /bin/sh in the first kernel before the tests.
    pub(super) set_up: &'static str,
    pub(super) tests: &'static [Test],
}

#[derive(Debug)]
pub(super) struct Test {
    pub(super) name: &'static str,
    /// One per kernel, run with /bin/sh in the folder of the selftests.
    pub(super) commands: &'static [&'static str],
    /// Messages about tests that are skipped because no kernel with these options supports them.
    pub(super) leaves_out: &'static [&'static str],
}

impl Test {
    const fn that_leaves_out(self, leaves_out: &'static [&'static str]) -> Self {
        Self { leaves_out, ..self }
    }
}

const fn test(name: &'static str, commands: &'static [&'static str]) -> Test {
    Test {
        name,
        commands,
        leaves_out: &[],
    }
}

/// The longest first.
pub(super) const HOSTS: &[Host] = &[
    Host {
        name: "iommufd",
        unpatched: &[Flavour::StockDebug],
        patched: &[Flavour::Debug],
        memory_mib: 4096,
        cmdline: "hugepagesz=2M hugepages=66",
        devices: Devices::None,
        set_up: "true",
        tests: &[
            // These two fail in both kernels: the mock that they request a dma-buf from returns 0
            // instead of the file descriptor (iommufd_test_dmabuf_get() of Linux 7.3.4).
            test(
                "selftests/iommufd",
                &["./iommufd -T dmabuf_simple -T dmabuf_revoke"],
            )
            .that_leaves_out(&["Skipping test for variant no_viommu"]),
            test("selftests/iommufd_fail_nth", &["./iommufd_fail_nth"]),
        ],
    },
    Host {
        name: "vfio",
        unpatched: &[Flavour::Stock],
        patched: &[Flavour::A],
        memory_mib: 4096,
        cmdline: HUGE_PAGES,
        devices: Devices::Igb,
        set_up: GIVE_TO_VFIO,
        tests: &[
            test(
                "selftests/vfio_iommufd_setup",
                &["./vfio_iommufd_setup_test $(cat /run/igb)"],
            ),
            test(
                "selftests/vfio_pci_device",
                &["./vfio_pci_device_test $(cat /run/igb)"],
            ),
            // Filling a gigabyte takes seconds here: that size only with iommufd.
            test(
                "selftests/vfio_dma_mapping",
                &["./vfio_dma_mapping_test \
                    -V vfio_type1_iommu_anonymous_hugetlb_1gb \
                    -V vfio_type1v2_iommu_anonymous_hugetlb_1gb \
                    -V iommufd_compat_type1_anonymous_hugetlb_1gb \
                    -V iommufd_compat_type1v2_anonymous_hugetlb_1gb $(cat /run/igb)"],
            ),
            test(
                "selftests/vfio_dma_mapping_mmio",
                &["./vfio_dma_mapping_mmio_test $(cat /run/igb)"],
            ),
            // The device does DMA, also to unmapped addresses. All variants would take 80 s: only
            // the iommufd mode, and not init_remove, which is part of the others.
            test(
                "selftests/vfio_pci_driver",
                &["./vfio_pci_driver_test -T init_remove -v iommufd $(cat /run/igb)"],
            ),
        ],
    },
    Host {
        name: "memory",
        unpatched: &[Flavour::Stock, Flavour::Stock],
        patched: &[Flavour::A, Flavour::B],
        memory_mib: 2048,
        cmdline: "",
        devices: Devices::None,
        set_up: "true",
        tests: &[
            test("selftests/guest_memfd", &["./guest_memfd_test"]),
            // Private memory: CONFIG_KVM_SW_PROTECTED_VM.
            test("selftests/pre_fault_memory", &["./pre_fault_memory_test"])
                .that_leaves_out(&["Skipping tests for vm_type 0x1"]),
            test("selftests/liveupdate", &["./liveupdate"]),
            test("selftests/set_memory_region", &["./set_memory_region_test"])
                .that_leaves_out(&["Skipping tests for KVM_MEM_GUEST_MEMFD memory regions"]),
            // Last: each leaves a process behind that holds what is preserved. They share the
            // kexec.
            test(
                "selftests/luo_kexec",
                &["./luo_kexec_simple -s 1", "./luo_kexec_simple -s 2"],
            ),
            test(
                "selftests/luo_multi_session",
                &["./luo_multi_session -s 1", "./luo_multi_session -s 2"],
            ),
            test(
                "selftests/luo_stress_files",
                &["./luo_stress_files -s 1", "./luo_stress_files -s 2"],
            ),
            test(
                "selftests/luo_stress_sessions",
                &["./luo_stress_sessions -s 1", "./luo_stress_sessions -s 2"],
            ),
        ],
    },
];

/// For the tests that map huge pages. Pages allocated at boot are outside the memory that KHO
/// reserves, in which nothing may be pinned for long: with other pages those tests fail in the
/// unpatched kernel too.
const HUGE_PAGES: &str = "hugepagesz=1G hugepages=1 hugepagesz=2M hugepages=1";

/// Binds the 82576 to vfio-pci and writes its address to /run/igb. Each test of the driver shares a
/// gigabyte with the device, which takes long with small pages.
const GIVE_TO_VFIO: &str = "set -e
    for device in /sys/bus/pci/devices/*; do
        [ $(cat $device/vendor)$(cat $device/device) = 0x80860x10c9 ] || continue
        echo vfio-pci >$device/driver_override
        echo ${device##*/} | tee /run/igb >/sys/bus/pci/drivers_probe
    done
    ls -d /sys/bus/pci/devices/$(cat /run/igb)/vfio-dev/*
    echo always >/sys/kernel/mm/transparent_hugepage/shmem_enabled";
