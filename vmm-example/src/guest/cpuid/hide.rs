//! CPU features that an operator hides from a guest.

use std::fmt;
use std::str::FromStr;

use kvm_bindings::kvm_cpuid_entry2;

use crate::spec::SpecError;

/// `leaf=0x40000001,index=0,eax=0x40`: bits of a CPUID leaf that a guest reads as 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HiddenCpuid {
    leaf: u32,
    index: u32,
    /// EAX, EBX, ECX and EDX.
    registers: [u32; 4],
}

const REGISTERS: [&str; 4] = ["eax", "ebx", "ecx", "edx"];

impl HiddenCpuid {
    pub(super) fn hide(&self, entry: &mut kvm_cpuid_entry2) {
        if (entry.function, entry.index) == (self.leaf, self.index) {
            entry.eax &= !self.registers[0];
            entry.ebx &= !self.registers[1];
            entry.ecx &= !self.registers[2];
            entry.edx &= !self.registers[3];
        }
    }
}

impl fmt::Display for HiddenCpuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "leaf={:#x},index={:#x}", self.leaf, self.index)?;
        let registers = REGISTERS.iter().zip(self.registers);
        let mut hidden = registers.filter(|(_, bits)| *bits != 0);
        hidden.try_for_each(|(name, bits)| write!(f, ",{name}={bits:#x}"))
    }
}

impl FromStr for HiddenCpuid {
    type Err = SpecError;

    fn from_str(value: &str) -> Result<Self, SpecError> {
        let mut hidden = Self::default();
        let mut seen = Vec::new();
        for part in value.split(',') {
            let pair = part.split_once('=');
            let (key, number) = pair.ok_or_else(|| SpecError::NotKeyValue { part: part.into() })?;
            let register = REGISTERS.iter().position(|name| *name == key);
            let field = match (key, register) {
                ("leaf", _) => &mut hidden.leaf,
                ("index", _) => &mut hidden.index,
                (_, Some(at)) => &mut hidden.registers[at],
                _ => {
                    return Err(SpecError::UnknownKey {
                        key: key.into(),
                        known: "leaf, index, eax, ebx, ecx, edx",
                    });
                }
            };
            *field = parse(number)?;
            if seen.contains(&key) {
                return Err(SpecError::RepeatedKey { key: key.into() });
            }
            seen.push(key);
        }
        match seen.contains(&"leaf") && hidden.registers != [0; 4] {
            true => Ok(hidden),
            false => Err(SpecError::MissingKey {
                key: "leaf or a register's bits",
            }),
        }
    }
}

fn parse(number: &str) -> Result<u32, SpecError> {
    let bad = || SpecError::BadValue {
        what: "Number",
        value: number.into(),
        expected: "0x and at most eight hexadecimal digits",
    };
    let digits = number.strip_prefix("0x").ok_or_else(bad)?;
    let all = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let value = u32::from_str_radix(digits, 16).map_err(|_| bad())?;
    all.then_some(value).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_one_leaf_are_hidden() {
        let hidden: HiddenCpuid = "leaf=0x7,eax=0x1,edx=0xf0".parse().unwrap();
        assert_eq!(hidden.to_string().parse(), Ok(hidden));
        let leaf = |function, index| kvm_cpuid_entry2 {
            function,
            index,
            eax: 3,
            edx: 0xff,
            ..Default::default()
        };
        let mut entry = leaf(7, 0);
        hidden.hide(&mut entry);
        assert_eq!((entry.eax, entry.edx), (2, 0xf));
        for other in [leaf(7, 1), leaf(1, 0)] {
            let mut entry = other;
            hidden.hide(&mut entry);
            assert_eq!(entry, other);
        }
    }

    #[test]
    fn what_hides_nothing_is_refused() {
        for bad in [
            "",
            "leaf=0x7",
            "eax=0x1",
            "leaf=7,eax=0x1",
            "leaf=0x7,eax=0x+1",
            "leaf=0x7,eax=0x100000000",
            "leaf=0x7,eax=0x1,eax=0x2",
            "leaf=0x7,rax=0x1",
        ] {
            assert!(bad.parse::<HiddenCpuid>().is_err(), "{bad:?} parsed");
        }
    }
}
