//! The case's parameters: text, made into the author's own struct.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, DeserializeOwned, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use crate::units;

/// Parameters by name, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params(BTreeMap<String, String>);

/// A parameter that is missing, or is not what the plan expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamError(String);

impl std::error::Error for ParamError {}

impl fmt::Display for ParamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Params {
    /// Reads `key=value` pairs joined by `|`.
    #[must_use]
    pub fn unpack(packed: &str) -> Self {
        let pairs = packed.split('|').filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    /// Joins them again.
    #[must_use]
    pub fn pack(&self) -> String {
        self.0.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("|")
    }

    /// The text of one parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Sets one.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    /// Makes the author's struct of them. Numbers and booleans are parsed, a [`std::time::Duration`] is text such as
    /// `100ms`, lists and structs are JSON. What the struct does not name is left out.
    ///
    /// # Errors
    /// When one is missing or is not what the struct wants; the message names it.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, ParamError> {
        // A parameter that is declared without a default and not set arrives as `null`: it is not given.
        let given = self.0.iter().filter(|(_, text)| *text != "null");
        let fields = given.map(|(name, text)| (name.as_str(), Text { name, text }));
        T::deserialize(MapDeserializer::<_, ParamError>::new(fields))
    }
}

impl FromIterator<(String, String)> for Params {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl de::Error for ParamError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Self(format!(
            "the parameter `{field}` is not given: give it a default in the manifest, or a value in the composition"
        ))
    }
}

/// The text of one parameter, which knows its name for the error.
#[derive(Clone, Copy)]
struct Text<'a> {
    name: &'a str,
    text: &'a str,
}

impl<'a> Text<'a> {
    fn wrong(&self, wanted: &str) -> ParamError {
        ParamError(format!(
            "the parameter `{}` is `{}`, which is not {wanted}",
            self.name, self.text
        ))
    }

    /// Puts the parameter's name in front of an error that does not have it yet.
    fn named<T>(&self, outcome: Result<T, impl fmt::Display>) -> Result<T, ParamError> {
        outcome.map_err(|err| {
            let text = err.to_string();
            let known = text.starts_with("the parameter");
            ParamError(if known { text } else { format!("the parameter `{}`: {text}", self.name) })
        })
    }

    fn json<'de, V: Visitor<'de>>(
        self,
        wanted: &str,
        visit: impl FnOnce(serde_json::Value) -> Result<V::Value, serde_json::Error>,
    ) -> Result<V::Value, ParamError> {
        let value = serde_json::from_str(self.text).map_err(|_| self.wrong(wanted))?;
        self.named(visit(value))
    }
}

impl<'de> IntoDeserializer<'de, ParamError> for Text<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! parsed {
    ($($method:ident $visit:ident $wanted:literal,)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
            let value = self.text.trim().parse().map_err(|_| self.wrong($wanted))?;
            self.named(visitor.$visit::<ParamError>(value))
        })*
    };
}

impl<'de> de::Deserializer<'de> for Text<'_> {
    type Error = ParamError;

    parsed! {
        deserialize_bool visit_bool "`true` or `false`",
        deserialize_i8 visit_i8 "a whole number from -128 to 127",
        deserialize_i16 visit_i16 "a whole number of 16 bits",
        deserialize_i32 visit_i32 "a whole number of 32 bits",
        deserialize_i64 visit_i64 "a whole number",
        deserialize_u8 visit_u8 "a whole number from 0 to 255",
        deserialize_u16 visit_u16 "a whole number from 0 to 65535",
        deserialize_u32 visit_u32 "a whole number of 32 bits, 0 or more",
        deserialize_u64 visit_u64 "a whole number, 0 or more",
        deserialize_f32 visit_f32 "a number",
        deserialize_f64 visit_f64 "a number",
        deserialize_char visit_char "one character",
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        match serde_json::from_str::<serde_json::Value>(self.text) {
            Ok(value) => self.named(de::Deserializer::deserialize_any(value, visitor)),
            Err(_) => self.deserialize_str(visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        self.named(visitor.visit_str::<ParamError>(self.text))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        if self.text.is_empty() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ParamError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ParamError> {
        if !variants.contains(&self.text) {
            return Err(self.wrong(&format!("one of `{}`", variants.join("`, `"))));
        }
        self.named(visitor.visit_enum(IntoDeserializer::<ParamError>::into_deserializer(self.text)))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        self.json::<V>("a list in JSON, such as `[\"a\",\"b\"]`", |value| {
            de::Deserializer::deserialize_seq(value, visitor)
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, ParamError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        self.json::<V>("an object in JSON, such as `{\"a\":1}`", |value| {
            de::Deserializer::deserialize_map(value, visitor)
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ParamError> {
        // This is how serde asks for a `std::time::Duration`.
        if name == "Duration" && fields == ["secs", "nanos"] {
            let span = units::duration(self.text).map_err(|err| {
                ParamError(format!("the parameter `{}` is `{}`, which {err}", self.name, self.text))
            })?;
            let parts = [span.as_secs(), u64::from(span.subsec_nanos())];
            return visitor.visit_seq(SeqDeserializer::new(parts.into_iter()));
        }
        self.deserialize_map(visitor)
    }

    forward_to_deserialize_any! { i128 u128 bytes byte_buf unit unit_struct tuple_struct identifier ignored_any }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde::Deserialize;

    use super::*;
    use crate::units::{Bytes, Percent};

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Transport {
        Tcp,
        Quic,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct P {
        rounds: u32,
        latency: Duration,
        size: Bytes,
        lost: Percent,
        versions: Vec<String>,
        transport: Transport,
        name: String,
        #[serde(default)]
        deep: bool,
        unset: Option<u32>,
    }

    const GOOD: &str = "rounds=5|latency=100ms|size=64KiB|lost=10%|versions=[\"a\",\"b\"]|transport=quic|name=a=b|unset=null|more=1";

    #[test]
    fn text_becomes_the_authors_struct() {
        let read: P = Params::unpack(GOOD).read().unwrap();
        let wanted = P {
            rounds: 5,
            latency: Duration::from_millis(100),
            size: Bytes(65_536),
            lost: Percent(10.0),
            versions: vec!["a".to_owned(), "b".to_owned()],
            transport: Transport::Quic,
            name: "a=b".to_owned(),
            deep: false,
            unset: None,
        };
        assert_eq!(read, wanted);
    }

    #[test]
    fn an_error_names_parameter_value_and_what_was_wanted() {
        let cases = [
            (
                "rounds",
                "-1",
                "the parameter `rounds` is `-1`, which is not a whole number of 32 bits, 0 or more",
            ),
            (
                "latency",
                "fast",
                "the parameter `latency` is `fast`, which is not a duration such as `100ms`, `1.5s` or `2m`",
            ),
            (
                "size",
                "big",
                "the parameter `size`: `big` is not a size such as `64KiB`, `10MB` or `4096`",
            ),
            (
                "versions",
                "a",
                "the parameter `versions` is `a`, which is not a list in JSON, such as `[\"a\",\"b\"]`",
            ),
            (
                "transport",
                "ws",
                "the parameter `transport` is `ws`, which is not one of `tcp`, `quic`",
            ),
            (
                "rounds",
                "null",
                "the parameter `rounds` is not given: give it a default in the manifest, or a value in the composition",
            ),
        ];
        for (name, value, wanted) in cases {
            let mut params = Params::unpack(GOOD);
            params.set(name, value);
            assert_eq!(params.read::<P>().unwrap_err().to_string(), wanted);
        }
    }

    #[test]
    fn packing_is_what_unpacking_reads() {
        let params = Params::unpack("b=2|a=[1,2]||junk");
        assert_eq!(params.pack(), "a=[1,2]|b=2");
        assert_eq!(Params::unpack(""), Params::default());
    }
}
