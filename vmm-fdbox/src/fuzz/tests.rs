//! The harness itself.

use std::cell::RefCell;

use super::*;

fn campaign(dir: &Path, seeds: &[&[u8]]) -> Campaign<'static> {
    let corpus = Corpus::read("harness", seeds, None);
    Campaign::new("harness", Some(dir.to_owned()), corpus)
}

#[test]
fn an_input_that_fails_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut campaign = campaign(dir.path(), &[b"good"]);
    let target = |input: &[u8]| assert_ne!(input, b"evil", "as intended");
    assert!(campaign.execute(b"good", &target).is_ok());
    let failed = campaign.execute(b"evil", &target).unwrap_err();
    assert_eq!(fs::read(&failed).unwrap(), b"evil");
    assert_eq!(failed.parent(), Some(dir.path()));
    // For a process that dies without a panic.
    let current = fs::read(dir.path().join("current")).unwrap();
    assert_eq!(current, b"\x04\0\0\0\0\0\0\0evil");
}

#[test]
fn the_same_seed_gives_the_same_inputs() {
    let inputs = |seed: u64| {
        let (corpus, mut mutator) = (
            Corpus::read("harness", &[b"some seed"], None),
            Mutator::new(seed),
        );
        let inputs = (0..200).map(|_| corpus.mutated(&mut mutator));
        inputs.collect::<Vec<_>>()
    };
    assert_eq!(inputs(1), inputs(1));
    assert_ne!(inputs(1), inputs(2));
}

#[test]
fn mutations_find_what_is_close_to_a_seed() {
    let dir = tempfile::tempdir().unwrap();
    let found = RefCell::new([false; 3]);
    let target = |input: &[u8]| {
        let mut found = found.borrow_mut();
        found[0] |= input.starts_with(b"seeX");
        found[1] |= input.len() > 8;
        found[2] |= input.is_empty();
    };
    let mut campaign = campaign(dir.path(), &[b"seed"]);
    for _ in 0..100_000 {
        let input = campaign.corpus.mutated(&mut campaign.mutator);
        campaign.execute(&input, &target).unwrap();
        if *found.borrow() == [true; 3] {
            return;
        }
    }
    panic!("{:?}", found.borrow());
}

#[test]
fn an_input_is_read_in_pieces_and_ends_in_zeroes() {
    let mut input = Input::new(&[1, 2, 0, 3, 0, 0, 0, 9]);
    assert_eq!((input.u8(), input.u16(), input.u32()), (1, 2, 3));
    assert!(!input.is_empty());
    assert_eq!((input.u64(), input.u8(), input.bytes(3)), (9, 0, &[][..]));
    assert_eq!(input.rest(), &[] as &[u8]);
}
