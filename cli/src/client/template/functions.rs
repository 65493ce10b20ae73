//! The functions of templates: Go's predefined ones, and those Docker adds.

use std::cmp::Ordering;

use serde_json::Value;

const NAMES: [&str; 28] = [
    "and", "or", "not", "len", "index", "slice", "print", "printf", "println", "html", "urlquery", "js",
    "eq", "ne", "lt", "le", "gt", "ge", "json", "split", "join", "title", "lower", "upper", "pad",
    "truncate", "table", "call",
];

/// Whether there is a function of this name.
pub fn is_known(name: &str) -> bool {
    NAMES.contains(&name)
}

/// What Docker's own functions make of a heading: nothing.
pub fn heading(name: &str, args: &[Value]) -> Option<Value> {
    match name {
        "json" | "split" | "title" | "lower" | "upper" | "pad" | "truncate" | "join" => args.first().cloned(),
        _ => None,
    }
}

/// Calls a function.
pub fn call(name: &str, args: &[Value]) -> Result<Value, String> {
    let at_least = |n: usize| match args.len() {
        have if have < n => Err(format!("wrong number of args for {name}: want at least {n} got {have}")),
        _ => Ok(()),
    };
    let text = |i: usize| args[i].as_str().map_or_else(|| show(&args[i]), str::to_owned);
    let count = |i: usize| {
        args[i].as_u64().map(|n| n as usize).ok_or_else(|| format!("{} is not a count", show(&args[i])))
    };
    at_least(match name {
        "print" | "println" => 0,
        "eq" | "ne" | "lt" | "le" | "gt" | "ge" | "split" | "join" | "truncate" => 2,
        "pad" => 3,
        _ => 1,
    })?;
    Ok(match name {
        "and" => args.iter().find(|a| !truth(a)).or(args.last()).cloned().unwrap_or(Value::Null),
        "or" => args.iter().find(|a| truth(a)).or(args.last()).cloned().unwrap_or(Value::Null),
        "not" => (!truth(&args[0])).into(),
        "len" => match &args[0] {
            Value::String(s) => s.len().into(),
            Value::Array(a) => a.len().into(),
            Value::Object(o) => o.len().into(),
            other => return Err(format!("len of {}", show(other))),
        },
        "index" => args[1..].iter().try_fold(args[0].clone(), |at, key| index(&at, key))?,
        "slice" => {
            let (from, length) = (args.get(1).map_or(Ok(0), |_| count(1))?, call("len", &args[..1])?);
            let length = length.as_u64().unwrap_or(0) as usize;
            let to = args.get(2).map_or(Ok(length), |_| count(2))?;
            match &args[0] {
                Value::String(s) => s.get(from..to).map(Value::from),
                Value::Array(a) => a.get(from..to).map(|s| s.to_vec().into()),
                _ => None,
            }
            .ok_or_else(|| format!("index out of range: {to}"))?
        }
        "print" => spaced(args, false).into(),
        "println" => (spaced(args, true) + "\n").into(),
        "printf" => printf(&text(0), &args[1..]).into(),
        "html" | "js" | "urlquery" => escape(name, &spaced(args, false)).into(),
        "eq" => args[1..].iter().any(|a| compare(&args[0], a) == Some(Ordering::Equal)).into(),
        "ne" => (compare(&args[0], &args[1]) != Some(Ordering::Equal)).into(),
        "lt" | "le" | "gt" | "ge" => {
            let order = compare(&args[0], &args[1]).ok_or("incompatible types for comparison")?;
            match name {
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                _ => order.is_ge(),
            }
            .into()
        }
        "json" => args[0].to_string().into(),
        "split" => text(0).split(&text(1)).map(Value::from).collect(),
        "join" => {
            let list = args[0].as_array().ok_or_else(|| format!("cannot join {}", show(&args[0])))?;
            list.iter().map(show).collect::<Vec<_>>().join(&text(1)).into()
        }
        "title" => title(&text(0)).into(),
        "lower" => text(0).to_lowercase().into(),
        "upper" => text(0).to_uppercase().into(),
        "pad" if text(0).is_empty() => "".into(),
        "pad" => {
            let width = |i| count(i).map(|n| " ".repeat(n.min(1 << 12)));
            (width(1)? + &text(0) + &width(2)?).into()
        }
        "truncate" => text(0).chars().take(count(1)?).collect::<String>().into(),
        other => return Err(format!("{other} cannot be called here")),
    })
}

/// Whether a value counts as true: it is not zero, empty or nothing.
pub fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
    }
}

/// A value as Go prints it.
pub fn show(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => s.clone(),
        Value::Array(a) => format!("[{}]", a.iter().map(inner).collect::<Vec<_>>().join(" ")),
        Value::Object(o) => {
            let one = |(k, v): (&String, &Value)| format!("{k}:{}", inner(v));
            format!("map[{}]", o.iter().map(one).collect::<Vec<_>>().join(" "))
        }
    }
}

/// JSON in which nothing is taken for HTML.
pub fn safe_in_html(json: &Value) -> Value {
    let text = json.as_str().unwrap_or_default();
    text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026").into()
}

fn inner(value: &Value) -> String {
    if value.is_null() { "<nil>".into() } else { show(value) }
}

fn index(at: &Value, key: &Value) -> Result<Value, String> {
    match (at, key) {
        (Value::Array(list), key) => {
            let i = key.as_u64().ok_or_else(|| format!("cannot index slice with {}", show(key)))?;
            list.get(i as usize).cloned().ok_or_else(|| format!("index out of range: {i}"))
        }
        (Value::Object(map), Value::String(name)) => Ok(map.get(name).cloned().unwrap_or(Value::Null)),
        (Value::Null, _) => Err("index of untyped nil".into()),
        _ => Err(format!("can't index {} with {}", show(at), show(key))),
    }
}

fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        _ => None,
    }
}

/// `print` puts spaces only between values of which neither is a string, `println` everywhere.
fn spaced(args: &[Value], always: bool) -> String {
    let mut out = String::new();
    for (i, arg) in args.iter().enumerate() {
        let between = i > 0 && (always || !(arg.is_string() || args[i - 1].is_string()));
        out.push_str(if between { " " } else { "" });
        out.push_str(&show(arg));
    }
    out
}

fn title(text: &str) -> String {
    let mut start = true;
    text.chars()
        .map(|c| {
            let shown = if start { c.to_uppercase().next().unwrap_or(c) } else { c };
            start = !(c.is_alphanumeric() || c == '_' || c == '\'');
            shown
        })
        .collect()
}

fn escape(how: &str, text: &str) -> String {
    if how == "urlquery" {
        return super::super::api::encode(text);
    }
    let one = |c: char| match (how, c) {
        ("html", '<') => "&lt;".to_owned(),
        ("html", '>') => "&gt;".to_owned(),
        ("html", '&') => "&amp;".to_owned(),
        ("html", '"') => "&#34;".to_owned(),
        ("html", '\'') => "&#39;".to_owned(),
        ("js", '\'' | '"' | '\\') => format!("\\{c}"),
        ("js", '<' | '>' | '&' | '=') => format!("\\u{:04X}", c as u32),
        (_, c) => c.to_string(),
    };
    text.chars().map(one).collect()
}

/// The verbs of `printf` that make sense for what is shown: `%s %v %d %q %t %x %f %%` with width and precision.
fn printf(format: &str, args: &[Value]) -> String {
    let (mut out, mut args, mut chars) = (String::new(), args.iter(), format.chars().peekable());
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut number = |start: bool| {
            let mut digits = String::new();
            while let Some(d) = chars.peek().filter(|d| d.is_ascii_digit() || (start && "-+ #".contains(**d)))
            {
                digits.push(*d);
                chars.next();
            }
            digits
        };
        let flags = number(true);
        let precise = {
            let dot = chars.next_if_eq(&'.').is_some();
            let mut digits = String::new();
            while let Some(d) = chars.next_if(char::is_ascii_digit) {
                digits.push(d);
            }
            dot.then(|| digits.parse::<usize>().unwrap_or(0).min(1 << 12))
        };
        let verb = chars.next().unwrap_or('%');
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = args.next() else {
            out.push_str(&format!("%!{verb}(MISSING)"));
            continue;
        };
        let text = match verb {
            'q' => Value::from(show(value)).to_string(),
            'x' => value.as_i64().map_or_else(
                || show(value).bytes().map(|b| format!("{b:02x}")).collect(),
                |n| format!("{n:x}"),
            ),
            'f' => format!("{:.*}", precise.unwrap_or(6), value.as_f64().unwrap_or(0.0)),
            _ => show(value),
        };
        let text = match precise {
            Some(n) if verb != 'f' => text.chars().take(n).collect(),
            _ => text,
        };
        let left = flags.contains('-');
        let digits = flags.trim_start_matches(['-', '+', ' ', '#']);
        let zeroes = digits.starts_with('0') && !left;
        let width = digits.parse::<usize>().unwrap_or(0).min(1 << 12);
        let pad = (if zeroes { "0" } else { " " }).repeat(width.saturating_sub(text.chars().count()));
        out.push_str(&if left { text + &pad } else { pad + &text });
    }
    out
}
