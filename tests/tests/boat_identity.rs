//! The page tables that map memory to itself: the module's header, compiled for the host.

mod cc;

/// Maps the GiBs of some addresses, and prints where the CPU would find others, or `-`.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <string.h>
#include "identity.h"

#define PHYS	0x1234567000ull

static __u64 tables[BOAT_IDENTITY_PAGES * BOAT_IDENTITY_ENTRIES];

static int walk(__u64 at, __u64 *found)
{
	__u64 entry = PHYS | BOAT_IDENTITY_TABLE;
	int shift;

	for (shift = 39; shift >= 21; shift -= 9) {
		__u64 table = (entry - PHYS) / 4096;

		if (!(entry & 1) || entry & 0x80 || table >= BOAT_IDENTITY_PAGES)
			return 0;
		entry = tables[table * 512 + ((at >> shift) & 511)];
	}
	*found = (entry & ~0x1fffffull) | (at & 0x1fffff);
	return (entry & 0x1fffff) == 0x83;
}

int main(void)
{
	static const __u64 mapped[] = { MAPPED }, asked[] = { ASKED };
	struct boat_identity identity;
	__u64 found;
	__u32 i;

	memset(tables, 0xff, sizeof(tables));
	identity = boat_identity_begin(tables, PHYS);
	for (i = 0; i < sizeof(mapped) / sizeof(*mapped); i++)
		boat_identity_map(&identity, mapped[i]);
	for (i = 0; i < sizeof(asked) / sizeof(*asked); i++) {
		if (walk(asked[i], &found))
			printf("%llx ", found);
		else
			printf("- ");
	}
	printf("%u", identity.used);
	return 0;
}
"#;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn found(mapped: &[u64], asked: &[u64]) -> String {
    let flag = |name: &str, addresses: &[u64]| {
        let addresses: Vec<_> = addresses.iter().map(|at| format!("{at:#x}ull")).collect();
        format!("-D{name}={}", addresses.join(","))
    };
    let flags = [flag("MAPPED", mapped), flag("ASKED", asked)];
    String::from_utf8(cc::output(PROGRAM, &flags)).unwrap()
}

/// The addresses themselves, and the number of tables.
fn themselves(asked: &[u64], tables: u32) -> String {
    let asked: Vec<_> = asked.iter().map(|at| format!("{at:x}")).collect();
    format!("{} {tables}", asked.join(" "))
}

#[test]
fn four_gibs_are_mapped_and_no_more() {
    let mapped = [0, GIB, 2 * GIB, 3 * GIB];
    let asked = [0, 0x8123, GIB - 1, GIB, 3 * GIB + 5 * MIB, 4 * GIB - 1];
    assert_eq!(found(&mapped, &asked), themselves(&asked, 6));
    assert_eq!(found(&mapped, &[4 * GIB, 512 * GIB]), "- - 6");
}

#[test]
fn a_gib_anywhere_is_mapped_beside_the_first() {
    for start in [GIB, 100 * GIB, 511 * GIB, 512 * GIB, 5000 * GIB] {
        // It need not begin with the address.
        let mapped = [0, start + 300 * MIB];
        let asked = [0x8123, start, start + 513 * MIB, start + GIB - 1];
        let tables = if start < 512 * GIB { 4 } else { 5 };
        assert_eq!(found(&mapped, &asked), themselves(&asked, tables));
        let none = format!("- - {tables}");
        assert_eq!(found(&mapped, &[start - 1 + 2 * GIB, 256 * GIB]), none);
    }
}

#[test]
fn a_gib_that_is_mapped_twice_takes_no_more_tables() {
    let asked = [0, 700 * MIB];
    assert_eq!(found(&[0, 512 * MIB], &asked), themselves(&asked, 3));
}
