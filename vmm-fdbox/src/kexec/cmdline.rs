//! Parses a kernel command line as `lib/cmdline.c`, `kernel/params.c` and `lib/kstrtox.c` do (Linux
//! 7.3), and finds settings that would lose the boxes.

use std::fmt;

use crate::finding::Finding;

const SUBJECT: &str = "Kernel command line";
/// The options that decide how a kernel translates for devices.
const IOMMU_OPTIONS: [&[u8]; 3] = [b"iommu", b"intel_iommu", b"amd_iommu"];
/// The space that the bzImage loader reserves for `elfcorehdr=`, which only crash kernels get.
const RESERVED_BYTES: usize = 30;

/// A word of a command line: a name and the value after the `=`.
struct Parameter<'a> {
    name: &'a [u8],
    value: Option<&'a [u8]>,
}

impl fmt::Display for Parameter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The kernel treats dashes and underscores the same.
        let name = String::from_utf8_lossy(self.name).replace('-', "_");
        match self.value {
            Some(value) => write!(f, "{name}={}", String::from_utf8_lossy(value)),
            None => f.write_str(&name),
        }
    }
}

/// The kernel's `isspace()`, which treats bytes as Latin-1.
fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r' | 0xa0)
}

fn skip_spaces(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| !is_space(byte));
    &text[start.unwrap_or(text.len())..]
}

/// `next_arg()`: the first parameter and what follows it. Quotes keep spaces in a word.
fn next_parameter(text: &[u8]) -> (Parameter<'_>, &[u8]) {
    let quoted = text.first() == Some(&b'"');
    let text = if quoted { &text[1..] } else { text };
    let (mut in_quotes, mut equals) = (quoted, 0);
    let mut len = text.len();
    for (at, byte) in text.iter().enumerate() {
        if is_space(byte) && !in_quotes {
            len = at;
            break;
        }
        if equals == 0 && *byte == b'=' {
            equals = at;
        }
        in_quotes ^= *byte == b'"';
    }
    let (word, rest) = text.split_at(len);
    let is_closed = word.last() == Some(&b'"');
    let open = |word: &[u8]| word.len() - usize::from(is_closed);
    let parameter = if equals == 0 {
        let end = if quoted { open(word) } else { len };
        Parameter {
            name: &word[..end],
            value: None,
        }
    } else {
        let opens = word.get(equals + 1) == Some(&b'"');
        let begin = equals + 1 + usize::from(opens);
        let end = if quoted || opens { open(word) } else { len };
        Parameter {
            name: &word[..equals],
            value: Some(&word[begin.min(end)..end]),
        }
    };
    // Also skip the byte that ended the word.
    (parameter, skip_spaces(rest.get(1..).unwrap_or_default()))
}

/// The parameters for the kernel, and the rest of the line after `--`, which is for init.
fn parameters(cmdline: &str) -> (Vec<Parameter<'_>>, &[u8]) {
    let mut found = Vec::new();
    let mut rest = skip_spaces(cmdline.as_bytes());
    while !rest.is_empty() {
        let (parameter, behind) = next_parameter(rest);
        rest = behind;
        if parameter.name == b"--" && parameter.value.is_none() {
            break;
        }
        found.push(parameter);
    }
    (found, rest)
}

/// `parameq()`: dashes and underscores are the same.
fn is_named(parameter: &Parameter<'_>, name: &[u8]) -> bool {
    let same = |(a, b): (&u8, &u8)| a == b || (*a == b'-' && *b == b'_');
    parameter.name.len() == name.len() && parameter.name.iter().zip(name).all(same)
}

/// `kstrtobool()`: the first letter decides, and after an `o` the second. Anything else is an
/// error.
fn to_bool(value: &[u8]) -> Option<bool> {
    let lower = |at: usize| value.get(at).map(u8::to_ascii_lowercase);
    match (lower(0)?, lower(1)) {
        (b'e' | b'y' | b't' | b'1', _) | (b'o', Some(b'n')) => Some(true),
        (b'd' | b'n' | b'f' | b'0', _) | (b'o', Some(b'f')) => Some(false),
        _ => None,
    }
}

/// What a command line says about KHO.
#[derive(Debug, Default, PartialEq, Eq)]
struct Kho {
    /// The last value that the kernel understands; it applies each one in turn.
    setting: Option<bool>,
    /// The word with that value, or else with one that the kernel does not understand.
    word: Option<String>,
    /// Whether there is one after `--`, where the kernel does not look.
    is_for_init: bool,
}

impl Kho {
    fn of(cmdline: &str) -> Self {
        let (found, rest) = parameters(cmdline);
        let mut kho = Self::default();
        for parameter in found.iter().filter(|found| is_named(found, b"kho")) {
            // Without a value, the kernel reports an error.
            let setting = parameter.value.and_then(to_bool);
            if setting.is_some() || kho.setting.is_none() {
                kho.setting = setting;
                kho.word = Some(parameter.to_string());
            }
        }
        kho.is_for_init = rest.split(is_space).any(|word| word.starts_with(b"kho="));
        kho
    }
}

/// Problems with the command line of the next kernel that affect the handover. `running` is this
/// kernel's; `default` says whether KHO is on in the next kernel if its command line does not set
/// it.
pub(super) fn check(next: &str, running: &str, default: Option<bool>) -> Vec<Finding> {
    if let Some(at) = next.bytes().position(|b| b == 0) {
        let problem = format!("it holds a NUL at byte {at}");
        return vec![Finding::blocker(SUBJECT, problem, "leave it out")];
    }
    let mut findings = Vec::new();
    findings.extend(check_kho(&Kho::of(next), &Kho::of(running), default));
    let (there, here) = (iommu_options(next), iommu_options(running));
    if there != here {
        findings.push(Finding::warning(
            SUBJECT,
            format!("its IOMMU options are not this kernel's: {there:?} instead of {here:?}"),
            "give it the same if a guest drives a device of the host: DMA goes on only if the \
             next kernel translates in the same way",
        ));
    }
    findings
}

fn check_kho(next: &Kho, running: &Kho, default: Option<bool>) -> Option<Finding> {
    let block = |problem: String, remedy| Some(Finding::blocker(SUBJECT, problem, remedy));
    match (next.setting, &next.word) {
        (Some(true), _) => None,
        (Some(false), word) => {
            let word = word.as_deref().unwrap_or_default();
            block(
                format!("{word} turns KHO off, and every box would be lost"),
                "write kho=on",
            )
        }
        (None, Some(word)) => block(
            format!("{word} says neither on nor off, and the kernel takes no notice of it"),
            "write kho=on",
        ),
        (None, None) if next.is_for_init => block(
            "its kho= stands behind --, where the kernel does not read it".into(),
            "write kho=on before the --",
        ),
        (None, None) => match (default, running.setting) {
            (Some(true), _) => None,
            (Some(false), _) => block(
                "it lacks kho=on, and the next kernel's configuration leaves KHO off".into(),
                "add kho=on",
            ),
            (None, Some(true)) => block(
                "it lacks kho=on, which this kernel was booted with".into(),
                "add kho=on: a kernel that has it by default takes it too",
            ),
            (None, _) => Some(Finding::warning(
                SUBJECT,
                "it lacks kho=on, and whether the next kernel has KHO on by itself cannot be known",
                "add kho=on: a kernel that has it by default takes it too",
            )),
        },
    }
}

/// The parameters that decide how IOMMUs translate.
fn iommu_options(cmdline: &str) -> String {
    let (found, _) = parameters(cmdline);
    let about_iommus = |found: &&Parameter<'_>| {
        let mut options = IOMMU_OPTIONS.iter();
        options.any(|option| is_named(found, option))
    };
    let words: Vec<_> = found
        .iter()
        .filter(about_iommus)
        .map(ToString::to_string)
        .collect();
    words.join(" ")
}

/// Whether the command line fits into a kernel that takes `max_bytes` (`cmdline_size` of its
/// header).
pub(super) fn check_length(cmdline: &str, max_bytes: usize) -> Option<Finding> {
    // The kernel counts the terminating NUL.
    let max_bytes = max_bytes.saturating_sub(RESERVED_BYTES + 1);
    (cmdline.len() > max_bytes).then(|| {
        let problem = format!(
            "it has {} bytes, and the next kernel takes {max_bytes}",
            cmdline.len()
        );
        Finding::blocker(SUBJECT, problem, "shorten it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kexec::testing::assert_documented;

    /// How a kernel with KHO off by default interprets a command line; `None` means the default
    /// applies. Each case was looked up in lib/kstrtox.c, lib/cmdline.c and kernel/params.c of
    /// Linux 7.3.4.
    const KHO: [(&str, Option<bool>); 40] = [
        ("kho=on", Some(true)),
        ("kho=ON", Some(true)),
        ("kho=one", Some(true)),
        ("kho=1", Some(true)),
        ("kho=y", Some(true)),
        ("kho=Yes", Some(true)),
        ("kho=true", Some(true)),
        ("kho=enable", Some(true)),
        ("kho=1off", Some(true)),
        ("kho=off", Some(false)),
        ("kho=of", Some(false)),
        ("kho=offline", Some(false)),
        ("kho=0", Some(false)),
        ("kho=0x", Some(false)),
        ("kho=0x1", Some(false)),
        ("kho=N", Some(false)),
        ("kho=fine", Some(false)),
        ("kho=disable", Some(false)),
        ("kho=o", None),
        ("kho=open", None),
        ("kho=2", None),
        ("kho=junk", None),
        ("kho=-1", None),
        ("kho=", None),
        ("kho", None),
        ("kho==on", None),
        // Each is applied in turn; one that is not understood changes nothing.
        ("kho=off kho=on", Some(true)),
        ("kho=on kho=off", Some(false)),
        ("kho=off kho=junk", Some(false)),
        ("kho=on kho=junk kho", Some(true)),
        ("kho=junk kho=on", Some(true)),
        // What follows `--` is for init.
        ("quiet -- kho=on", None),
        ("kho=on -- kho=off", Some(true)),
        ("kho=on \"--\" kho=off", Some(true)),
        ("--kho=on", None),
        // Quotes.
        ("kho=\"on\"", Some(true)),
        ("\"kho=on\"", Some(true)),
        ("dyndbg=\"file x kho=on\" quiet", None),
        // Other parameters do not count.
        ("xkho=on kho_scratch=1% kho.on=1 KHO=on", None),
        ("a=b\tkho=on\nquiet", Some(true)),
    ];

    #[test]
    fn kho_is_read_as_the_kernel_reads_it() {
        for (cmdline, expected) in KHO {
            assert_eq!(Kho::of(cmdline).setting, expected, "{cmdline:?}");
        }
    }

    #[test]
    fn a_byte_a0_ends_a_word_as_in_the_kernel() {
        // U+00E0 is C3 A0, and A0 is a space in the kernel's table.
        assert_eq!(Kho::of("root=\u{e0}kho=on").setting, Some(true));
    }

    #[test]
    fn odd_lines_are_split_as_by_next_arg() {
        let split = |line: &'static str| -> Vec<_> {
            let (found, _) = parameters(line);
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            let pair = |found: &Parameter<'static>| (text(found.name), found.value.map(text));
            found.iter().map(pair).collect()
        };
        let named = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        for (line, expected) in [
            ("", vec![]),
            ("   ", vec![]),
            ("\"", vec![named("", None)]),
            ("=", vec![named("=", None)]),
            ("=a=b", vec![named("=a", Some("b"))]),
            ("a=\"", vec![named("a", Some(""))]),
            (
                "a=\"b c\" d",
                vec![named("a", Some("b c")), named("d", None)],
            ),
            (
                "\"a=b c\" d",
                vec![named("a", Some("b c")), named("d", None)],
            ),
            ("a=\"b c", vec![named("a", Some("b c"))]),
            ("a\" \"b=c", vec![named("a\" \"b", Some("c"))]),
            ("\"a b\"", vec![named("a b", None)]),
        ] {
            assert_eq!(split(line), expected, "{line:?}");
        }
    }

    #[track_caller]
    fn kho_finding(next: &str, running: &str, default: Option<bool>) -> Finding {
        let found = check(next, running, default);
        assert_eq!(found.len(), 1, "{next:?}: {found:?}");
        found.into_iter().next().unwrap()
    }

    #[test]
    fn a_command_line_that_would_lose_the_boxes_is_a_blocker() {
        for (next, problem) in [
            ("kho=of", "turns KHO off, and every box would be lost"),
            ("kho=off kho=junk", "turns KHO off"),
            ("quiet kho=junk", "says neither on nor off"),
            ("kho", "says neither on nor off"),
            ("quiet -- kho=on", "stands behind --"),
            (
                "quiet",
                "it lacks kho=on, which this kernel was booted with",
            ),
            ("a\0b kho=on", "it holds a NUL at byte 1"),
        ] {
            let found = kho_finding(next, "kho=1", None);
            assert!(found.is_blocker(), "{next:?}");
            assert!(found.problem.contains(problem), "{found}");
            assert_documented(problem.trim_end_matches(" 1"));
        }
        assert!(
            kho_finding("kho=of", "", None)
                .problem
                .starts_with("kho=of ")
        );
    }

    #[test]
    fn without_kho_the_configuration_decides() {
        assert_eq!(check("quiet", "kho=on", Some(true)), []);
        let found = kho_finding("quiet", "", Some(false));
        assert!(found.is_blocker(), "{found}");
        assert_documented("the next kernel's configuration leaves KHO off");
        let found = kho_finding("quiet", "quiet", None);
        assert!(!found.is_blocker(), "{found}");
        assert_documented("whether the next kernel has KHO on by itself cannot be known");
        assert_eq!(check("kho=on", "kho=on", Some(false)), []);
    }

    #[test]
    fn an_iommu_that_would_translate_otherwise_is_told() {
        let running = "kho=on intel_iommu=on quiet iommu=strict";
        for next in [
            "kho=on",
            "kho=on iommu=strict intel_iommu=off",
            "kho=on intel_iommu=on,sm_on iommu=strict",
            "kho=on -- intel_iommu=on iommu=strict",
        ] {
            let findings = check(next, running, None);
            assert_eq!(findings.len(), 1, "{next}: {findings:?}");
            assert!(!findings[0].is_blocker());
            assert!(findings[0].problem.contains("intel_iommu=on"));
        }
        let same = "intel-iommu=on iommu=\"strict\" kho=on stage=2 xiommu=off";
        assert_eq!(check(same, running, None), []);
    }

    #[test]
    fn a_command_line_that_the_next_kernel_cannot_take_is_told() {
        // x86's cmdline_size is 2047; bzImage64_load() needs space for the NUL and 30 bytes more.
        assert_eq!(check_length(&"a".repeat(2016), 2047), None);
        let found = check_length(&"a".repeat(2017), 2047).unwrap();
        assert!(found.is_blocker());
        assert!(found.problem.contains("2017 bytes"), "{found}");
        assert_documented("and the next kernel takes");
    }
}
