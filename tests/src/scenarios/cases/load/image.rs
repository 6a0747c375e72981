//! The part of a module's ELF file that says which kernel functions the module calls.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};

/// elf.h.
const SECTION_LEN: usize = 64;
const SYMBOL_LEN: usize = 24;
const RELA_LEN: usize = 24;
const SHT_SYMTAB: u64 = 2;
const SHT_RELA: u64 = 4;
const SHN_UNDEF: u64 = 0;
const SHN_ABS: u16 = 0xfff1;
const R_X86_64_PLT32: u64 = 4;

/// A module that can be loaded.
pub(super) struct Image(Vec<u8>);

/// A kernel function that the module calls, with its index in the symbol table.
pub(super) struct Call {
    pub(super) name: String,
    symbol: usize,
}

/// A part of the file.
#[derive(Clone, Copy)]
struct Section {
    kind: u64,
    offset: usize,
    len: usize,
    link: usize,
}

impl Image {
    pub(super) fn read(path: &str) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("Read {path}"))?;
        ensure!(
            bytes.starts_with(b"\x7fELF\x02\x01"),
            "{path} is no 64-bit ELF file"
        );
        Ok(Self(bytes))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The functions that it only calls. A function whose address it takes may be called from elsewhere.
    pub(super) fn calls(&self) -> Result<Vec<Call>> {
        let (symbols, names) = self.symbols()?;
        let (mut called, mut other) = (BTreeSet::new(), BTreeSet::new());
        for section in self.sections()?.filter(|section| section.kind == SHT_RELA) {
            for at in (section.offset..section.offset + section.len).step_by(RELA_LEN) {
                let info = self.number(at + 8, 8)?;
                match info & 0xffff_ffff {
                    R_X86_64_PLT32 => called.insert((info >> 32) as usize),
                    _ => other.insert((info >> 32) as usize),
                };
            }
        }
        let mut calls = Vec::new();
        for symbol in called.difference(&other).copied() {
            let at = symbols.offset + symbol * SYMBOL_LEN;
            if self.number(at + 6, 2)? == SHN_UNDEF {
                let name = self.text(names.offset + self.number(at, 4)? as usize)?;
                calls.push(Call { name, symbol });
            }
        }
        Ok(calls)
    }

    /// Redirects a call to this address.
    pub(super) fn redirect(&mut self, call: &Call, address: u64) -> Result<()> {
        let (symbols, _) = self.symbols()?;
        let at = symbols.offset + call.symbol * SYMBOL_LEN;
        let symbol = self.0.get_mut(at..at + SYMBOL_LEN).context("A symbol")?;
        symbol[6..8].copy_from_slice(&SHN_ABS.to_le_bytes());
        symbol[8..16].copy_from_slice(&address.to_le_bytes());
        Ok(())
    }

    /// The symbol table and its string table.
    fn symbols(&self) -> Result<(Section, Section)> {
        let sections: Vec<Section> = self.sections()?.collect();
        let symbols = sections.iter().find(|section| section.kind == SHT_SYMTAB);
        let symbols = *symbols.context("A table of symbols")?;
        let names = *sections.get(symbols.link).context("Their names")?;
        Ok((symbols, names))
    }

    fn sections(&self) -> Result<impl Iterator<Item = Section>> {
        let first = self.number(0x28, 8)? as usize;
        let count = self.number(0x3c, 2)? as usize;
        let section = |index: usize| {
            let at = first + index * SECTION_LEN;
            Ok(Section {
                kind: self.number(at + 4, 4)?,
                offset: self.number(at + 24, 8)? as usize,
                len: self.number(at + 32, 8)? as usize,
                link: self.number(at + 40, 4)? as usize,
            })
        };
        let sections: Result<Vec<Section>> = (0..count).map(section).collect();
        Ok(sections?.into_iter())
    }

    /// A little-endian number of `len` bytes.
    fn number(&self, at: usize, len: usize) -> Result<u64> {
        let bytes = self.0.get(at..at + len).context("The file ends")?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn text(&self, at: usize) -> Result<String> {
        let rest = self.0.get(at..).context("The file ends")?;
        let end = rest.iter().position(|byte| *byte == 0);
        Ok(String::from_utf8(
            rest[..end.context("The file ends")?].to_vec(),
        )?)
    }
}
