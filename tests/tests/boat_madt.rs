//! The I/O APICs in a MADT: the module's header, compiled for the host.

mod cc;

/// Prints what is found in a table with these entries, and where. There is room for two.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <string.h>
#include "madt.h"

int main(void)
{
	static const __u8 entries[] = { ENTRIES };
	__u8 madt[BOAT_MADT_HEADER + sizeof(entries)] = {};
	__u64 found[2] = {};
	int nr;

	memcpy(madt + BOAT_MADT_HEADER, entries, sizeof(entries));
	nr = boat_madt_ioapics(madt, sizeof(madt), found, 2);
	printf("%d %llx %llx", nr, found[0], found[1]);
	return 0;
}
"#;

const CPU: &str = "0, 8, 0, 0, 1, 0, 0, 0";
const FIRST: &str = "1, 12, 0, 0, 0x00, 0x00, 0xc0, 0xfe, 0, 0, 0, 0";
const SECOND: &str = "1, 12, 1, 0, 0x00, 0x80, 0xc0, 0xfe, 24, 0, 0, 0";

fn found(entries: &[&str]) -> String {
    let output = cc::output(PROGRAM, &[format!("-DENTRIES={}", entries.join(","))]);
    String::from_utf8(output).unwrap()
}

#[test]
fn all_io_apics_are_found_among_the_entries() {
    assert_eq!(found(&[CPU, FIRST, CPU, SECOND]), "2 fec00000 fec08000");
    assert_eq!(found(&[CPU]), "0 0 0");
}

#[test]
fn more_than_there_is_room_for_are_refused() {
    assert!(found(&[FIRST, SECOND, FIRST]).starts_with("-1 "));
}

#[test]
fn a_damaged_table_is_refused() {
    for damaged in [
        "0, 0",
        "0, 1",
        "0",
        "0, 9, 0, 0, 1, 0, 0, 0",
        "1, 8, 0, 0, 0, 0, 0xc0, 0xfe",
    ] {
        assert!(found(&[FIRST, damaged]).starts_with("-1 "), "{damaged}");
    }
}
