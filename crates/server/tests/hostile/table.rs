//! The tables of cases: text that a person can read and extend.
//!
//! ```text
//! # A comment, to the end of the line.
//!
//! = the name of a case
//! > GET / HTTP/1.1                 a line that is sent, with CRLF behind it
//! + bytes                          sent as they are
//! ! half-close                     nothing more will be sent; or `! reset`
//! < 400; Allow: GET; end           what has to come, in this order
//!
//! ~ get                            a template: the same, with @@ where its rows differ
//! > GET @@ HTTP/1.1
//!
//! % get 400; end                   rows of a template, and what has to come
//! the name of a case | /%00
//! the name of another | /x | 404; open
//! ```
//!
//! `\r`, `\n`, `\t`, `\0`, `\\` and `\x41` are bytes in what is sent, `\{80*ab}` repeats, `\{length}` is the
//! count of the bytes behind the first empty line that is sent. `! once` at the beginning of a case sends it
//! in one piece on a new connection only, and not also byte by byte and on a connection that the control
//! plane has; the reason stands above.

use super::expect::{Item, items};

/// One case: what is sent, and what has to come.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) once: bool,
    pub(crate) steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Send(Vec<u8>),
    HalfClose,
    Reset,
    Expect(Vec<Item>),
}

/// Reads a table; panics with the line that is wrong.
pub(crate) fn cases(family: &str, text: &str) -> Vec<Case> {
    let mut table = Table::default();
    for (index, line) in text.lines().enumerate() {
        if let Err(reason) = table.line(line) {
            panic!("{family}, line {}: {reason}: {line}", index + 1);
        }
    }
    if let Err(reason) = table.finish() {
        panic!("{family}, at its end: {reason}");
    }
    table.cases
}

#[derive(Default)]
struct Table {
    cases: Vec<Case>,
    templates: Vec<Script>,
    open: Open,
}

#[derive(Clone, Default)]
struct Script {
    name: String,
    lines: Vec<String>,
}

#[derive(Default)]
enum Open {
    #[default]
    Nothing,
    Case(Script),
    Template(Script),
    /// The template's place, and what rows expect that do not say.
    Rows(usize, String),
}

impl Table {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        let (mark, rest) = line.split_at(1);
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        match mark {
            "=" | "~" => {
                self.finish()?;
                let script = Script { name: rest.to_owned(), lines: Vec::new() };
                self.open = if mark == "=" { Open::Case(script) } else { Open::Template(script) };
            }
            "%" => {
                self.finish()?;
                let (name, expected) = rest.split_once(' ').unwrap_or((rest, ""));
                let template = self.templates.iter().position(|template| template.name == name);
                self.open = Open::Rows(template.ok_or("no such template")?, expected.to_owned());
            }
            _ => match &mut self.open {
                Open::Case(script) | Open::Template(script) => script.lines.push(line.to_owned()),
                Open::Rows(template, expected) => {
                    let mut columns = line.split(" | ");
                    let name = columns.next().unwrap_or_default();
                    let text = columns.next().ok_or("a row is NAME | TEXT [| EXPECTED]")?;
                    let mut script = self.templates[*template].clone();
                    script.name = name.to_owned();
                    script.lines = script.lines.iter().map(|line| line.replace("@@", text)).collect();
                    script.lines.push(format!("< {}", columns.next().unwrap_or(expected)));
                    self.cases.push(script.case()?);
                }
                Open::Nothing => return Err("this belongs to nothing".to_owned()),
            },
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), String> {
        match std::mem::take(&mut self.open) {
            Open::Case(script) => self.cases.push(script.case()?),
            Open::Template(script) => self.templates.push(script),
            Open::Nothing | Open::Rows(..) => {}
        }
        Ok(())
    }
}

impl Script {
    fn case(&self) -> Result<Case, String> {
        let mut case = Case { name: self.name.trim().to_owned(), once: false, steps: Vec::new() };
        let mut sent = String::new();
        let (mut head_end, mut expects) = (None, false);
        for line in &self.lines {
            let (mark, rest) = line.split_at(1);
            let rest = rest.strip_prefix(' ').unwrap_or(rest);
            match mark {
                ">" => {
                    sent.push_str(rest);
                    sent.push_str("\\r\\n");
                    if rest.is_empty() {
                        head_end.get_or_insert(sent.len());
                    }
                    continue;
                }
                "+" => {
                    sent.push_str(rest);
                    continue;
                }
                _ => {}
            }
            if !sent.is_empty() {
                case.steps.push(Step::Send(assembled(&sent, head_end.take())?));
                sent.clear();
            }
            match (mark, rest) {
                ("!", "once") => case.once = true,
                ("!", "half-close") => case.steps.push(Step::HalfClose),
                ("!", "reset") => case.steps.push(Step::Reset),
                ("<", expected) => {
                    case.steps.push(Step::Expect(items(expected)?));
                    expects = true;
                }
                _ => return Err(format!("not a step: {line}")),
            }
        }
        if case.name.is_empty() || !expects || !sent.is_empty() {
            return Err(format!("{:?} has no name, or nothing to expect at its end", case.name));
        }
        Ok(case)
    }
}

/// The bytes that a text of escapes stands for.
fn assembled(text: &str, head_end: Option<usize>) -> Result<Vec<u8>, String> {
    let body = unescape(&text[head_end.unwrap_or(text.len())..])?;
    unescape(&text.replace("\\{length}", &body.len().to_string()))
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = &rest[at + 1..];
        let wrong = || format!("not an escape: \\{}", escape.chars().take(8).collect::<String>());
        let (byte, length) = match escape.bytes().next().ok_or_else(wrong)? {
            b'r' => (b'\r', 1),
            b'n' => (b'\n', 1),
            b't' => (b'\t', 1),
            b'0' => (0, 1),
            b'\\' => (b'\\', 1),
            b'x' => {
                let digits = escape.get(1..3).ok_or_else(wrong)?;
                (u8::from_str_radix(digits, 16).map_err(|_| wrong())?, 3)
            }
            b'{' => {
                let (inner, behind) = escape[1..].split_once('}').ok_or_else(wrong)?;
                let (count, repeated) = inner.split_once('*').ok_or_else(wrong)?;
                let count: usize = count.parse().map_err(|_| wrong())?;
                bytes.extend(unescape(repeated)?.repeat(count));
                rest = behind;
                continue;
            }
            _ => return Err(wrong()),
        };
        bytes.push(byte);
        rest = &escape[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}
