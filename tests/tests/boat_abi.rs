//! What kernels tell each other about a lifeboat: the module's header, compiled for the host, compared with
//! golden bytes.

mod cc;

/// Never edit them: a change of the layout is a new version with files of its own.
const RECORD_V1: &[u8] = include_bytes!("golden/boat-record-v1.bin");
const PAGE_V1: &[u8] = include_bytes!("golden/boat-page-v1.bin");
/// The same of a host that lends a box.
const PAGE_V1_LENDS: &[u8] = include_bytes!("golden/boat-page-v1-lends.bin");
/// The same of a host that counts its handovers.
const PAGE_V1_COUNTS: &[u8] = include_bytes!("golden/boat-page-v1-counts.bin");
/// The same of a host that has panicked.
const PAGE_V1_PANICS: &[u8] = include_bytes!("golden/boat-page-v1-panics.bin");
/// The same of a host that has prepared a rescue kernel.
const PAGE_V1_RESCUES: &[u8] = include_bytes!("golden/boat-page-v1-rescues.bin");
/// The same of a host that lends CPUs.
const PAGE_V1_CPUS: &[u8] = include_bytes!("golden/boat-page-v1-cpus.bin");
const RESCUE_V1: &[u8] = include_bytes!("golden/boat-rescue-v1.bin");
const LEASE_V1: &[u8] = include_bytes!("golden/boat-lease-v1.bin");

/// Writes a record, pages, a lease and a rescue kernel, with a different number in each word.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include "abi.h"

int main(void)
{
	struct boat_record record = {
		.magic = BOAT_RECORD_MAGIC,
		.version = BOAT_ABI_VERSION,
		.size = sizeof(record),
		.region = 0x123400000,
		.region_bytes = 0x8000000,
		.page = 0x123410000,
		.low = 0x50000,
		.silence_ms = 10000,
		.nr_cpus = 2,
		.apic_ids = { 3, 0x104 },
		.crc = CRC,
	};
	struct boat_page page = {
		.magic = BOAT_PAGE_MAGIC,
		.version = BOAT_ABI_VERSION,
		.size = sizeof(page),
		.region = 0x123400000,
		.region_bytes = 0x8000000,
		.silence_ms = 10000,
		.host_beats = 0x1111,
		.kernels = 2,
		.order = BOAT_ORDER_PARK,
		.boat_beats = 0x2222,
		.life = 0x3333,
		.says = BOAT_SAYS_PARKING,
		.cpus = 2,
		.parked = 1,
		.largest_gap_ns = 0x4444,
	};
	struct boat_page lends = page, counts, panics, rescues, cpus;
	struct boat_lease lease = {
		.name = "vm0",
		.word = 7ULL << BOAT_LEASE_GENERATION | BOAT_LEASE_WANTED | BOAT_HOLDER_BOAT,
	};
	struct boat_rescue rescue = {
		.magic = BOAT_RESCUE_MAGIC,
		.version = BOAT_ABI_VERSION,
		.size = sizeof(rescue),
		.record = 0x66666000,
		.low = 0x50000,
		.entry = 0x7777770,
		.tables = 0x12a201000,
		.tree = 0x88888000,
		.nr_cpus = 2,
		.nr_segments = 2,
		.segments = {
			{ 0x12a208000, 0x5000, 0x1000000, 0x6000 },
			{ 0x12a20d000, 0x9999, 0x2000000, 0xa000 },
		},
		.apic_ids = { 0, 2 },
		.nr_ioapics = 2,
		.nr_masters = 2,
		.ioapics = { 0xfec00000, 0xfec08000 },
		.masters = { 0x18, 0x1ff },
	};

	lends.leases = 0x123420000;
	lends.nr_leases = BOAT_LEASES;
	lends.root = 0x55555000;
	lends.generation = 7;
	counts = lends;
	counts.handovers = 3;
	panics = counts;
	panics.host_says = BOAT_HOST_SAYS_PANIC;
	rescues = panics;
	rescues.rescue = 0x12a200000;
	cpus = rescues;
	cpus.lent = 3;
	cpus.online = 2;
	fwrite(&record, sizeof(record), 1, stdout);
	fwrite(&page, sizeof(page), 1, stdout);
	fwrite(&lends, sizeof(lends), 1, stdout);
	fwrite(&counts, sizeof(counts), 1, stdout);
	fwrite(&panics, sizeof(panics), 1, stdout);
	fwrite(&rescues, sizeof(rescues), 1, stdout);
	fwrite(&cpus, sizeof(cpus), 1, stdout);
	fwrite(&lease, sizeof(lease), 1, stdout);
	fwrite(&rescue, sizeof(rescue), 1, stdout);
	return ferror(stdout) ? EXIT_FAILURE : EXIT_SUCCESS;
}
"#;

#[test]
fn all_structs_are_the_golden_bytes() {
    let crc_at = RECORD_V1.len() - 8;
    let crc = crc32fast::hash(&RECORD_V1[..crc_at]);
    let written = cc::output(PROGRAM, &[format!("-DCRC={crc:#x}")]);
    let pages = [PAGE_V1, PAGE_V1_LENDS, PAGE_V1_COUNTS, PAGE_V1_PANICS];
    let newer = [PAGE_V1_RESCUES, PAGE_V1_CPUS];
    let pages = [pages.concat(), newer.concat()].concat();
    let golden = [RECORD_V1, &pages, LEASE_V1, RESCUE_V1].concat();
    assert_eq!(written, golden);
    assert_eq!(RECORD_V1[crc_at..crc_at + 4], crc.to_le_bytes());
}

#[test]
fn each_writer_has_cache_lines_of_its_own() {
    let word = |at: usize| u64::from_le_bytes(PAGE_V1[at..at + 8].try_into().unwrap());
    assert_eq!(word(64), 0x1111, "the host's beats");
    assert_eq!(word(128), 0x2222, "the boat's beats");
}
