//! Where a condition names data that may not be there at all, with pointers.
//!
//! Works on the JSON of a condition that was parsed: an object in it is the call of an operator.

use serde_json::{Map, Value};

use super::expr::Operator;
use super::limits::push_token;
use super::moment;

/// Something a condition names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// Where, as an RFC 6901 JSON pointer into the condition.
    pub pointer: String,
    /// What.
    pub what: Mentioned,
}

/// What a [`Mention`] is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mentioned {
    /// A trait, by the name it has at the top.
    Trait(String),
    /// A name that the event's is compared with.
    EventName(String),
    /// A window that ends now.
    Window {
        /// How long it is.
        seconds: i64,
        /// The path of the time that should lie in it, if it is one.
        path: Option<String>,
    },
}

/// Everything a condition mentions. Bodies of iterations see an element and are left out.
pub fn mentions(condition: &Value) -> Vec<Mention> {
    let mut walk = Walk {
        pointer: String::new(),
        found: Vec::new(),
    };
    walk.value(condition);
    walk.found
}

struct Walk {
    pointer: String,
    found: Vec<Mention>,
}

impl Walk {
    fn value(&mut self, value: &Value) {
        match value {
            Value::Array(items) => self.items(items),
            Value::Object(members) => self.call(members),
            _ => {}
        }
    }

    fn items(&mut self, items: &[Value]) {
        for (index, item) in items.iter().enumerate() {
            self.inside(&index.to_string(), |walk| walk.value(item));
        }
    }

    fn call(&mut self, members: &Map<String, Value>) {
        let Some((name, args)) = members.iter().next() else {
            return;
        };
        self.inside(name, |walk| match name.as_str() {
            "var" | "exists" => match args {
                Value::String(path) => walk.path(path),
                Value::Array(items) => {
                    if let Some(Value::String(path)) = items.first() {
                        walk.inside("0", |walk| walk.path(path));
                    }
                    walk.items(items);
                }
                computed => walk.value(computed),
            },
            "missing" => walk.paths(args),
            "missing_some" => {
                if let Some(paths) = args.get(1) {
                    walk.inside("1", |walk| walk.paths(paths));
                }
            }
            "within_last" => walk.window(args),
            "==" | "===" | "in" => {
                walk.event_names(args);
                walk.value(args);
            }
            _ if Operator::from_name(name).is_some_and(Operator::is_iteration) => {
                if let Value::Array(items) = args {
                    let outside = items.iter().enumerate().filter(|(index, _)| *index != 1);
                    for (index, item) in outside {
                        walk.inside(&index.to_string(), |walk| walk.value(item));
                    }
                }
            }
            _ => walk.value(args),
        });
    }

    fn paths(&mut self, args: &Value) {
        match args {
            Value::String(path) => self.path(path),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.inside(&index.to_string(), |walk| walk.paths(item));
                }
            }
            computed => self.value(computed),
        }
    }

    fn path(&mut self, path: &str) {
        let rest = path.strip_prefix("user.traits.");
        if let Some(name) = rest.and_then(|rest| rest.split('.').next()) {
            self.push(Mentioned::Trait(name.to_owned()));
        }
    }

    fn window(&mut self, args: &Value) {
        let Some([value, Value::String(window)]) = args.as_array().map(Vec::as_slice) else {
            return;
        };
        if let Some(seconds) = moment::window_seconds(window) {
            let path = match value.get("var") {
                Some(Value::String(path)) => Some(path.clone()),
                _ => None,
            };
            self.inside("1", |walk| walk.push(Mentioned::Window { seconds, path }));
        }
        self.inside("0", |walk| walk.value(value));
    }

    fn event_names(&mut self, args: &Value) {
        let Some([left, right]) = args.as_array().map(Vec::as_slice) else {
            return;
        };
        let is_name = |side: &Value| side.get("var").is_some_and(|path| path == "event.name");
        let (other, token) = match (is_name(left), is_name(right)) {
            (true, false) => (right, "1"),
            (false, true) => (left, "0"),
            _ => return,
        };
        self.inside(token, |walk| match other {
            Value::String(name) => walk.push(Mentioned::EventName(name.clone())),
            Value::Array(names) => {
                for (index, name) in names.iter().enumerate() {
                    if let Value::String(name) = name {
                        let what = Mentioned::EventName(name.clone());
                        walk.inside(&index.to_string(), |walk| walk.push(what));
                    }
                }
            }
            _ => {}
        });
    }

    fn push(&mut self, what: Mentioned) {
        let pointer = self.pointer.clone();
        self.found.push(Mention { pointer, what });
    }

    fn inside(&mut self, token: &str, work: impl FnOnce(&mut Self)) {
        let length = self.pointer.len();
        push_token(&mut self.pointer, token);
        work(self);
        self.pointer.truncate(length);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(condition: Value) -> Vec<(String, Mentioned)> {
        let mentions = mentions(&condition).into_iter();
        mentions.map(|it| (it.pointer, it.what)).collect()
    }

    #[test]
    fn what_is_named_is_found_where_it_stands() {
        let of_trait =
            |pointer: &str, name: &str| (pointer.to_owned(), Mentioned::Trait(name.to_owned()));
        let condition = json!({"and": [
            {"==": [{"var": "user.traits.plan.name"}, "pro"]},
            {"!": {"exists": "user.traits.a"}},
            {"exists": [{"var": ["user.traits.b", {"var": "user.traits.c"}]}]},
            {"missing": ["user.traits.d", "event.properties.e"]},
            {"missing_some": [1, ["user.traits.f"]]},
            {"some": [{"var": "user.traits.g"}, {"var": "user.traits.element"}]},
            {"in": ["user.traits.text", {"var": "user.id"}]},
        ]});
        assert_eq!(
            found(condition),
            [
                of_trait("/and/0/==/0/var", "plan"),
                of_trait("/and/1/!/exists", "a"),
                of_trait("/and/2/exists/0/var/0", "b"),
                of_trait("/and/2/exists/0/var/1/var", "c"),
                of_trait("/and/3/missing/0", "d"),
                of_trait("/and/4/missing_some/1/0", "f"),
                of_trait("/and/5/some/0/var", "g"),
            ]
        );
    }

    #[test]
    fn events_and_windows_are_found() {
        let name =
            |pointer: &str, name: &str| (pointer.to_owned(), Mentioned::EventName(name.to_owned()));
        let window = |seconds, path: Option<&str>| Mentioned::Window {
            seconds,
            path: path.map(str::to_owned),
        };
        let condition = json!({"or": [
            {"==": [{"var": "event.name"}, "buy"]},
            {"in": [{"var": "event.name"}, ["sell", 5]]},
            {"within_last": [{"var": "user.created_at"}, "3d"]},
            {"within_last": [{"cat": []}, "1w"]},
        ]});
        assert_eq!(
            found(condition),
            [
                name("/or/0/==/1", "buy"),
                name("/or/1/in/1/0", "sell"),
                (
                    "/or/2/within_last/1".to_owned(),
                    window(259_200, Some("user.created_at"))
                ),
                ("/or/3/within_last/1".to_owned(), window(604_800, None)),
            ]
        );
    }
}
