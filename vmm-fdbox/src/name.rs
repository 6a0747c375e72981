//! Names of boxes and of the descriptors in them.

use std::fmt;
use std::str::FromStr;

use crate::abi::FDBOX_NAME_LEN;

/// The longest name in bytes; the kernel's array holds it and a NUL.
pub const MAX_NAME_BYTES: usize = FDBOX_NAME_LEN - 1;

/// Why some bytes are not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The name has no bytes.
    #[error("A name cannot be empty: give it 1 to {MAX_NAME_BYTES} bytes")]
    Empty,
    /// The name is longer than [`MAX_NAME_BYTES`].
    #[error("A name of {bytes} bytes is too long: use at most {MAX_NAME_BYTES}")]
    TooLong {
        /// The length of the name.
        bytes: usize,
    },
    /// The name contains a byte that is not allowed.
    #[error("Name '{name}' holds {what} at byte {at}: leave it out")]
    BadByte {
        /// The refused name, made printable.
        name: String,
        /// What was found: a NUL or a slash.
        what: &'static str,
        /// Its position, counted from 0.
        at: usize,
    },
    /// The name is `.` or `..`.
    #[error("'{name}' means a directory: choose another name")]
    Directory {
        /// The refused name.
        name: String,
    },
    /// The name belongs to the control node.
    #[error("Box name 'fdbox' belongs to the control node: choose another name")]
    Reserved,
}

fn validate(bytes: &[u8]) -> Result<(), NameError> {
    if bytes.is_empty() {
        return Err(NameError::Empty);
    }
    if bytes.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong { bytes: bytes.len() });
    }
    if let Some(at) = bytes.iter().position(|b| matches!(b, 0 | b'/')) {
        return Err(NameError::BadByte {
            name: bytes.escape_ascii().to_string(),
            what: if bytes[at] == 0 { "a NUL" } else { "a '/'" },
            at,
        });
    }
    if matches!(bytes, b"." | b"..") {
        return Err(NameError::Directory {
            name: bytes.escape_ascii().to_string(),
        });
    }
    Ok(())
}

/// The bytes before the first NUL of a kernel name array.
fn until_nul(array: &[u8]) -> &[u8] {
    let end = array.iter().position(|&b| b == 0).unwrap_or(array.len());
    &array[..end]
}

fn to_array(bytes: &[u8]) -> [u8; FDBOX_NAME_LEN] {
    let mut array = [0; FDBOX_NAME_LEN];
    array[..bytes.len()].copy_from_slice(bytes);
    array
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Vec<u8>);

        impl $name {
            /// Validates a name given as `&str`, `&[u8]` or similar.
            ///
            /// # Errors
            /// [`NameError`] says what is wrong with it.
            pub fn new(name: impl AsRef<[u8]>) -> Result<Self, NameError> {
                let bytes = name.as_ref();
                Self::check(bytes)?;
                Ok(Self(bytes.to_vec()))
            }

            /// The name, without a NUL.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }

            /// The name as a kernel array, padded with NULs.
            #[must_use]
            pub fn to_kernel(&self) -> [u8; FDBOX_NAME_LEN] {
                to_array(&self.0)
            }

            /// Reads a name from a kernel array.
            ///
            /// # Errors
            /// [`NameError`] if the bytes before the first NUL are not a valid name.
            pub fn from_kernel(array: &[u8; FDBOX_NAME_LEN]) -> Result<Self, NameError> {
                Self::new(until_nul(array))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match std::str::from_utf8(&self.0) {
                    Ok(text) if !text.contains(char::is_control) => f.write_str(text),
                    _ => write!(f, "{}", self.0.escape_ascii()),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        /// Names are bytes; one that is not UTF-8 cannot be serialised.
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let text = std::str::from_utf8(&self.0).map_err(serde::ser::Error::custom)?;
                serializer.serialize_str(text)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(text).map_err(serde::de::Error::custom)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }
    };
}

name_type! {
    /// The name of a box, which appears as `/dev/fdbox/NAME`.
    ///
    /// 1 to 255 bytes, without NUL and `/`; neither `.` nor `..`, nor `fdbox`, which is the control
    /// node's name.
    ///
    /// ```
    /// use vmm_fdbox::BoxName;
    /// let name: BoxName = "web-1".parse()?;
    /// assert_eq!(name.to_string(), "web-1");
    /// assert!(BoxName::new("a/b").is_err());
    /// # Ok::<(), vmm_fdbox::NameError>(())
    /// ```
    BoxName
}

name_type! {
    /// The name of a descriptor in a box.
    ///
    /// 1 to 255 bytes, without NUL and `/`, neither `.` nor `..`.
    ///
    /// ```
    /// use vmm_fdbox::FdName;
    /// assert_eq!(FdName::new(b"ram\xff")?.as_bytes(), b"ram\xff");
    /// # Ok::<(), vmm_fdbox::NameError>(())
    /// ```
    FdName
}

impl BoxName {
    fn check(bytes: &[u8]) -> Result<(), NameError> {
        validate(bytes)?;
        if bytes == b"fdbox" {
            Err(NameError::Reserved)
        } else {
            Ok(())
        }
    }
}

impl FdName {
    /// A name that is known to be valid.
    pub(crate) fn from_static(name: &'static str) -> Self {
        debug_assert!(Self::check(name.as_bytes()).is_ok());
        Self(name.as_bytes().to_vec())
    }

    fn check(bytes: &[u8]) -> Result<(), NameError> {
        validate(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_name() {
        for good in [
            "a",
            "fdbox2",
            "...",
            ".a",
            "with space",
            "!",
            &"x".repeat(255),
        ] {
            assert_eq!(BoxName::new(good).unwrap().as_bytes(), good.as_bytes());
            assert_eq!(FdName::new(good).unwrap().as_bytes(), good.as_bytes());
        }
        assert!(FdName::new("fdbox").is_ok());
    }

    #[test]
    fn what_is_not() {
        assert_eq!(BoxName::new("").unwrap_err(), NameError::Empty);
        assert_eq!(
            BoxName::new("x".repeat(256)).unwrap_err(),
            NameError::TooLong { bytes: 256 }
        );
        assert_eq!(BoxName::new("fdbox").unwrap_err(), NameError::Reserved);
        for bad in [".", ".."] {
            assert!(matches!(FdName::new(bad), Err(NameError::Directory { .. })));
        }
        let error = FdName::new("a/b").unwrap_err();
        assert_eq!(
            error.to_string(),
            "Name 'a/b' holds a '/' at byte 1: leave it out"
        );
        let error = FdName::new(b"\0").unwrap_err();
        assert_eq!(
            error.to_string(),
            r"Name '\x00' holds a NUL at byte 0: leave it out"
        );
    }

    #[test]
    fn kernel_arrays_round_trip() {
        for name in ["a".to_owned(), "x".repeat(255)] {
            let name = FdName::new(name).unwrap();
            assert_eq!(FdName::from_kernel(&name.to_kernel()).unwrap(), name);
        }
        assert_eq!(
            FdName::from_kernel(&[0; 256]).unwrap_err(),
            NameError::Empty
        );
        assert!(FdName::from_kernel(&[b'x'; 256]).is_err());
    }

    #[test]
    fn any_bytes_print_as_one_line() {
        assert_eq!(FdName::new(b"ram\xff").unwrap().to_string(), r"ram\xff");
        assert_eq!(FdName::new("a\nb").unwrap().to_string(), r"a\nb");
        assert_eq!(FdName::new("größe").unwrap().to_string(), "größe");
    }
}
