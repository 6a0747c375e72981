//! Parses a command line like a kernel does in `lib/cmdline.c`, `kernel/params.c` and `lib/kstrtox.c`
//! (Linux 7.3).

use std::fmt;

/// A word of a command line: a name and the value after the `=`.
pub(super) struct Parameter<'a> {
    pub(super) name: &'a [u8],
    pub(super) value: Option<&'a [u8]>,
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
pub(super) fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r' | 0xa0)
}

fn skip_spaces(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| !is_space(byte));
    &text[start.unwrap_or(text.len())..]
}

/// `next_arg()`: the first parameter, and the rest of the line. Quotes keep spaces in a word.
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
pub(super) fn parameters(cmdline: &str) -> (Vec<Parameter<'_>>, &[u8]) {
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
pub(super) fn is_named(parameter: &Parameter<'_>, name: &[u8]) -> bool {
    let same = |(a, b): (&u8, &u8)| a == b || (*a == b'-' && *b == b'_');
    parameter.name.len() == name.len() && parameter.name.iter().zip(name).all(same)
}

/// `kstrtobool()`: the first letter decides, and after an `o` the second. Anything else is an
/// error.
pub(super) fn to_bool(value: &[u8]) -> Option<bool> {
    let lower = |at: usize| value.get(at).map(u8::to_ascii_lowercase);
    match (lower(0)?, lower(1)) {
        (b'e' | b'y' | b't' | b'1', _) | (b'o', Some(b'n')) => Some(true),
        (b'd' | b'n' | b'f' | b'0', _) | (b'o', Some(b'f')) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
