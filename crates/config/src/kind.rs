//! What values can be: counts, sizes, times, switches, choices, and texts of a form of their own.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;

use crate::values::secret::Secret;

/// The form of a value: what a file, a schema and a reference page need to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// A whole number within these bounds.
    Count(RangeInclusive<u64>),
    /// A number of bytes, such as `64KiB`.
    Size,
    /// A time with its unit, such as `20s`, within these bounds.
    Time(RangeInclusive<Duration>),
    /// `true` or `false`.
    Switch,
    /// One of these names, each with a sentence about it, which may be empty.
    Choice(Vec<(&'static str, &'static str)>),
    /// A text. The sentence says what is allowed.
    Text(&'static str),
}

/// Makes a value of a text, or says what is wrong with it.
pub(crate) type Parse<T> = Arc<dyn Fn(&str) -> Result<T, String> + Send + Sync>;

/// How a text becomes a value, and the text's form.
#[derive(Clone)]
pub struct Kind<T> {
    pub(crate) form: Form,
    pub(crate) parse: Parse<T>,
    pub(crate) is_secret: bool,
}

impl<T> fmt::Debug for Kind<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.form.fmt(f)
    }
}

fn kind<T>(form: Form, parse: impl Fn(&str) -> Result<T, String> + Send + Sync + 'static) -> Kind<T> {
    Kind { form, parse: Arc::new(parse), is_secret: false }
}

/// A whole number within these bounds, both included.
pub fn count(bounds: RangeInclusive<usize>) -> Kind<usize> {
    let (least, most) = bounds.into_inner();
    let form = Form::Count(least as u64..=most as u64);
    let allowed = form.allowed();
    kind(form, move |text| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse::<usize>().ok().filter(|_| is_number);
        match number {
            Some(number) if (least..=most).contains(&number) => Ok(number),
            Some(number) => Err(format!("{number} is not in {least}..={most}")),
            None => Err(format!("{} is no such number; write {allowed}", shown(text))),
        }
    })
}

/// A number of bytes.
pub fn size() -> Kind<usize> {
    kind(Form::Size, |text| {
        let size = text.parse::<ByteSize>().ok().and_then(|size| usize::try_from(size.as_u64()).ok());
        size.ok_or_else(|| format!("{} is no size; write {}", shown(text), Form::Size.allowed()))
    })
}

/// A time within these bounds. Zero is never one, since nothing here can happen always.
pub fn time(bounds: RangeInclusive<Duration>) -> Kind<Duration> {
    kind(Form::Time(bounds.clone()), move |text| {
        let time = read_time(text)?;
        let (least, most) = (bounds.start(), bounds.end());
        let is_within = bounds.contains(&time);
        is_within.then_some(time).ok_or_else(|| {
            format!(
                "must be from {} to {}",
                humantime::format_duration(*least),
                humantime::format_duration(*most)
            )
        })
    })
}

/// Any time but zero.
pub fn any_time() -> Kind<Duration> {
    time(Duration::from_nanos(1)..=Duration::MAX)
}

/// Reads a time such as `20s`, `1h 30m` or `500ms`.
pub(crate) fn read_time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than nothing, for example 1ms".to_owned()),
        Ok(time) => Ok(time),
        Err(_) => Err(format!("{} is not a time; write for example 20s, 500ms or 1h", shown(text))),
    }
}

/// On or off. Its flag may come without a value, which switches it on.
pub fn switch() -> Kind<bool> {
    kind(Form::Switch, |text| match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("{} is neither true nor false", shown(text))),
    })
}

/// One of these names. The second text of each is a sentence about it.
pub fn choice<T: Clone + Send + Sync + 'static>(choices: Vec<(&'static str, &'static str, T)>) -> Kind<T> {
    let form = Form::Choice(choices.iter().map(|(name, about, _)| (*name, *about)).collect());
    let allowed = form.allowed();
    kind(form, move |text| {
        let chosen = choices.iter().find(|(name, _, _)| *name == text).map(|(_, _, value)| value.clone());
        chosen.ok_or_else(|| {
            let nearest = crate::nearest::nearest(text, choices.iter().map(|(name, _, _)| *name));
            let hint = nearest.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
            format!("{} is not one of {allowed}{hint}", shown(text))
        })
    })
}

/// A text that this type can read. `allowed` says what it takes, in words that continue "write".
pub fn text<T>(allowed: &'static str) -> Kind<T>
where
    T: FromStr<Err: fmt::Display> + 'static,
{
    text_with(allowed, |text| text.parse().map_err(|error: T::Err| error.to_string()))
}

/// As [`text`], with a function that reads it.
pub fn text_with<T>(
    allowed: &'static str,
    parse: impl Fn(&str) -> Result<T, String> + Send + Sync + 'static,
) -> Kind<T> {
    kind(Form::Text(allowed), move |text| parse(text).map_err(|error| format!("{}: {error}", shown(text))))
}

/// The path of a file. Whether the file is there is not checked.
pub fn path() -> Kind<PathBuf> {
    text_with("the path of a file", |text| match text {
        "" => Err("write the path of a file".to_owned()),
        text if text.contains('\0') => Err("a path has no NUL in it".to_owned()),
        text => Ok(PathBuf::from(text)),
    })
}

/// A text that is never printed: neither by `config print`, nor in an error, nor in a log.
pub fn secret() -> Kind<Secret> {
    let parse = |text: &str| match text {
        "" => Err("a secret is not empty".to_owned()),
        text => Ok(Secret::new(text)),
    };
    Kind { is_secret: true, ..kind(Form::Text("a secret, which is not empty"), parse) }
}

impl Form {
    /// What is allowed, in words that continue "write".
    pub fn allowed(&self) -> String {
        match self {
            Form::Count(bounds) if *bounds.end() == usize::MAX as u64 => match bounds.start() {
                0 => "a whole number".to_owned(),
                least => format!("a whole number of at least {least}"),
            },
            Form::Count(bounds) => format!("a whole number from {} to {}", bounds.start(), bounds.end()),
            Form::Size => "a size such as 500B, 64KiB or 1MiB".to_owned(),
            Form::Time(bounds) if *bounds.end() == Duration::MAX => {
                "a time such as 500ms, 20s or 1h 30m".to_owned()
            }
            Form::Time(bounds) => {
                let (least, most) = (*bounds.start(), *bounds.end());
                let [least, most] = [least, most].map(humantime::format_duration);
                format!("a time from {least} to {most}, such as 500ms or 2s")
            }
            Form::Switch => "true or false".to_owned(),
            Form::Choice(choices) => {
                let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
                match names.as_slice() {
                    [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
                    names => names.concat(),
                }
            }
            Form::Text(allowed) => (*allowed).to_owned(),
        }
    }

    /// Whether a file has it without quotation marks.
    pub(crate) fn is_bare(&self) -> bool {
        matches!(self, Form::Count(_) | Form::Switch)
    }
}

/// The longest part of a wrong text that an error repeats, in characters.
const SHOWN: usize = 100;

/// A wrong text as an error repeats it.
pub(crate) fn shown(text: &str) -> String {
    let mut characters = text.chars();
    let start: String = characters.by_ref().take(SHOWN).collect();
    let rest = if characters.next().is_some() { "..." } else { "" };
    format!("{start:?}{rest}")
}

/// A size as it is written: with the largest unit of which it is a multiple.
pub fn size_text(bytes: usize) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.into_iter().find(|(bits, _)| bytes > 0 && bytes.trailing_zeros() >= *bits);
    unit.map_or_else(|| format!("{bytes}B"), |(bits, unit)| format!("{}{unit}", bytes >> bits))
}

/// A time as it is written.
pub fn time_text(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}
