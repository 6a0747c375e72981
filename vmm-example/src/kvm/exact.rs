//! KVM's structs in a saved state: each must have exactly the length of the kernel's ABI.
//!
//! kvm-bindings would pad what is too short and truncate what is too long, and so turn a damaged
//! state into another guest.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::BytesDeserializer;
use serde::de::{DeserializeOwned, Error, Visitor};
use serde::{Deserialize, Deserializer};
use serde_bytes::ByteBuf;

/// For a struct.
pub(super) fn one<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<T, D::Error> {
    Exact::deserialize(from).map(|exact| exact.0)
}

/// For a struct in a box.
pub(super) fn boxed<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    from: D,
) -> Result<Box<T>, D::Error> {
    one(from).map(Box::new)
}

/// For a list of structs.
pub(super) fn list<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    let list = Vec::<Exact<T>>::deserialize(from)?;
    Ok(list.into_iter().map(|exact| exact.0).collect())
}

/// For exactly `LEN` bytes.
pub(super) fn bytes<'de, D: Deserializer<'de>, const LEN: usize>(
    from: D,
) -> Result<ByteBuf, D::Error> {
    let bytes = ByteBuf::deserialize(from)?;
    check(bytes.len(), LEN)?;
    Ok(bytes)
}

/// A struct that was read completely.
struct Exact<T>(T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Exact<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // Not by a buffer of its own: a vCPU has hundreds of these, which are read while its guest stands still.
        from.deserialize_bytes(Whole(PhantomData))
    }
}

/// Reads a struct from bytes that are all there.
struct Whole<T>(PhantomData<T>);

impl<T: DeserializeOwned> Visitor<'_> for Whole<T> {
    type Value = Exact<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Expected(size_of::<T>()))
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        check(bytes.len(), size_of::<T>())?;
        T::deserialize(BytesDeserializer::<E>::new(bytes)).map(Exact)
    }
}

/// How long a struct is.
struct Expected(usize);

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of a struct of KVM's", self.0)
    }
}

fn check<E: Error>(found: usize, expected: usize) -> Result<(), E> {
    match found == expected {
        true => Ok(()),
        false => {
            let expected = Expected(expected).to_string();
            Err(E::invalid_length(found, &expected.as_str()))
        }
    }
}
