//! Reading JSON more strictly than by default: an object has each key once, and is no list.

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value};
use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;

/// A value in which no object has a key twice: of two, the last would count, and the first be gone without a word.
#[derive(Debug, Clone, PartialEq)]
pub struct Strict(pub Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Once).map(Self)
    }
}

/// A struct that is written as an object with its keys, and never as a list of its values by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object(deserializer).map(Self)
    }
}

/// The same for a field.
pub(crate) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Keyed<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Keyed<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }

    deserializer.deserialize_map(Keyed(PhantomData))
}

/// A list of rules, if there is one.
pub(crate) fn strict_list<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<Value>>, D::Error> {
    let list = Option::<Vec<Strict>>::deserialize(deserializer)?;
    Ok(list.map(|list| list.into_iter().map(|Strict(value)| value).collect()))
}

/// A plugin's configuration.
pub(crate) fn strict_map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    struct AMap;

    impl<'de> Visitor<'de> for AMap {
        type Value = Map<String, Value>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            once_each(map)
        }
    }

    deserializer.deserialize_map(AMap)
}

struct Once;

impl<'de> Visitor<'de> for Once {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = list.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        once_each(map).map(Value::Object)
    }
}

fn once_each<'de, A: MapAccess<'de>>(mut map: A) -> Result<Map<String, Value>, A::Error> {
    let mut object = Map::new();
    while let Some(key) = map.next_key::<String>()? {
        if object.contains_key(&key) {
            // As the fault of the value, so that the path to it ends with the key.
            match map.next_value_seed(Twice(&key))? {}
        }
        let Strict(value) = map.next_value()?;
        object.insert(key, value);
    }
    Ok(object)
}

/// The second value of a key.
struct Twice<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Twice<'_> {
    type Value = Infallible;

    fn deserialize<D: Deserializer<'de>>(self, _: D) -> Result<Infallible, D::Error> {
        Err(D::Error::custom(format_args!("duplicate key `{}`", self.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_they_are() {
        let text = r#"{"a":[null,true,-1,18446744073709551615,1.5,"\u00e9",{"a":{}}],"b":"x"}"#;
        let Strict(value) = serde_json::from_str(text).unwrap();
        assert_eq!(value, serde_json::from_str::<Value>(text).unwrap());
        let again: Strict = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(again.0, value);
    }

    #[test]
    fn an_object_is_no_list_and_says_so_without_names_of_this_program() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Wanted {
            a: u8,
            b: Option<Object<Box<Self>>>,
        }
        let check = |text: &str, expected: &str| {
            let mut json = serde_json::Deserializer::from_str(text);
            let said = match serde_path_to_error::deserialize::<_, Object<Wanted>>(&mut json) {
                Ok(Object(wanted)) => format!("{} {}", wanted.a, wanted.b.map_or(0, |Object(b)| b.a)),
                Err(error) => error.to_string(),
            };
            assert_eq!(said, expected, "{text}");
        };
        check(r#"{"a":1,"b":{"a":2}}"#, "1 2");
        check("[1,null]", "invalid type: sequence, expected an object at line 1 column 0");
        check("7", "invalid type: integer `7`, expected an object at line 1 column 1");
        check(r#"{"a":1,"b":[2]}"#, "b: invalid type: sequence, expected an object at line 1 column 11");
        check(
            r#"{"a":1,"b":{"a":2,"c":3}}"#,
            "b.c: unknown field `c`, expected `a` or `b` at line 1 column 21",
        );
        check(r#"{"a":1,"a":2}"#, "duplicate field `a` at line 1 column 10");
        check("{}", "missing field `a` at line 1 column 2");
    }

    #[test]
    fn a_key_that_is_there_twice_is_named_with_its_place() {
        let check = |text: &str, expected: &str| {
            let mut json = serde_json::Deserializer::from_str(text);
            let error = serde_path_to_error::deserialize::<_, Strict>(&mut json).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{text}: {error}");
        };
        check(r#"{"a":1,"a":1}"#, "a: duplicate key `a`");
        check(r#"[0,{"when":{"key":"x","key":"y"}}]"#, "[1].when.key: duplicate key `key`");
    }
}
