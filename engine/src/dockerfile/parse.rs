//! From lines to instructions.

use super::error::SyntaxError;
use super::expand::Expander;
use super::flags::{self, Flags};
use super::heredoc;
use super::instruction::{Command, Copy, Dockerfile, FromImage, Instruction, Kind, Run, Security};
use super::lines::{self, Line};
use super::mount::Mount;
use super::{command, healthcheck, split};

/// Every instruction.
const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Reads a whole Dockerfile.
pub fn parse(text: &str) -> Result<Dockerfile, SyntaxError> {
    let file = parse_instructions(text)?;
    let instructions = &file.instructions;
    let first = instructions.iter().find(|i| !matches!(i.kind, Kind::Arg(_)));
    match first {
        None if instructions.is_empty() => {
            return Err(SyntaxError::new((1, 1), "the Dockerfile cannot be empty"));
        }
        None => return Err(SyntaxError::new((1, 1), "no build stage: the Dockerfile has no FROM")),
        Some(Instruction { kind: Kind::From(_), .. }) => {}
        Some(other) => {
            return Err(SyntaxError::new(
                (other.line, 1),
                "no build stage in current context: only ARG may come before the first FROM",
            ));
        }
    }
    Ok(file)
}

/// Reads instructions that make no image of their own, such as changes of one.
pub fn parse_instructions(text: &str) -> Result<Dockerfile, SyntaxError> {
    let read = lines::read(text)?;
    let instructions: Vec<Instruction> =
        read.lines.iter().map(|l| instruction(l, read.escape)).collect::<Result<_, _>>()?;
    let mut notes = read.notes;
    notes.extend(instructions.iter().filter(|i| is_almost_a_list(&i.kind)).map(|i| {
        format!(
            "line {}: the shell gets {} as it stands, which is no list in JSON: those want double quotes",
            i.line, i.text
        )
    }));
    Ok(Dockerfile { instructions, escape: read.escape, notes })
}

/// Whether a command was meant as a list, and is none.
fn is_almost_a_list(kind: &Kind) -> bool {
    let (Kind::Run(Run { command, .. }) | Kind::Cmd(command) | Kind::Entrypoint(command)) = kind else {
        return false;
    };
    matches!(command, Command::Shell(text) if text.starts_with('[') && text.ends_with(']') && text.contains(','))
}

/// Reads one instruction, such as those of `ONBUILD` and of `commit --change`.
pub fn parse_one(text: &str) -> Result<Instruction, SyntaxError> {
    let read = lines::read(text)?;
    match read.lines.as_slice() {
        [line] => instruction(line, read.escape),
        [] => Err(SyntaxError::new((1, 1), "an instruction is wanted")),
        [_, second, ..] => Err(SyntaxError::new((second.first, 1), "one instruction is wanted")),
    }
}

fn instruction(line: &Line, escape: char) -> Result<Instruction, SyntaxError> {
    let (word, rest) = split::first_word(&line.text);
    let keyword = word.to_ascii_uppercase();
    let Some(keyword) = KEYWORDS.iter().find(|k| **k == keyword) else {
        return Err(SyntaxError::new(line.at(0), lines::unknown(word, &KEYWORDS)));
    };
    // No command at all takes the base's away.
    if rest.is_empty() && !matches!(*keyword, "CMD" | "ENTRYPOINT") {
        let count = match *keyword {
            "FROM" => "either one or three arguments",
            "RUN" | "HEALTHCHECK" | "ARG" | "ENV" | "LABEL" | "EXPOSE" | "VOLUME" | "ONBUILD" | "SHELL" => {
                "at least one argument"
            }
            "ADD" | "COPY" => "at least two arguments",
            _ => "exactly one argument",
        };
        return Err(SyntaxError::new(line.at(line.text.len()), format!("{keyword} requires {count}")));
    }
    // The others have flags of their own.
    if !matches!(*keyword, "FROM" | "RUN" | "ADD" | "COPY" | "HEALTHCHECK") {
        Flags::read(keyword, line, rest, escape, &[])?;
    }
    let kind = kind(keyword, line, rest, escape)?;
    variables(keyword, &kind, line, rest, escape)?;
    Ok(Instruction { kind, text: line.text.clone(), line: line.first, last_line: line.last })
}

fn kind(keyword: &'static str, line: &Line, rest: &str, escape: char) -> Result<Kind, SyntaxError> {
    let at = line.place(rest);
    Ok(match keyword {
        "FROM" => Kind::From(from(line, rest, escape)?),
        "RUN" => Kind::Run(run(line, rest, escape)?),
        "CMD" => Kind::Cmd(command::read(rest)),
        "ENTRYPOINT" => Kind::Entrypoint(command::read(rest)),
        "LABEL" => Kind::Label(pairs("LABEL", line, rest, escape)?),
        "ENV" => Kind::Env(pairs("ENV", line, rest, escape)?),
        "ARG" => Kind::Arg(arguments(line, rest, escape)?),
        "MAINTAINER" => Kind::Maintainer(rest.to_owned()),
        "EXPOSE" => Kind::Expose(rest.split_whitespace().map(str::to_owned).collect()),
        "ADD" => Kind::Add(copy("ADD", line, rest, escape)?),
        "COPY" => Kind::Copy(copy("COPY", line, rest, escape)?),
        "VOLUME" => {
            let paths = command::list(rest);
            if paths.is_empty() || paths.iter().any(|p| p.trim().is_empty()) {
                return Err(SyntaxError::new(at, "VOLUME specified can not be an empty string"));
            }
            Kind::Volume(paths)
        }
        "USER" => Kind::User(one(line, rest, "USER")?),
        "WORKDIR" => Kind::Workdir(rest.to_owned()),
        "STOPSIGNAL" => Kind::StopSignal(one(line, rest, "STOPSIGNAL")?),
        "HEALTHCHECK" => Kind::Healthcheck(healthcheck::read(line, rest, escape)?),
        "SHELL" => match split::json(rest) {
            Some(list) if !list.is_empty() => Kind::Shell(list),
            _ => {
                let why = "SHELL requires the arguments to be in JSON form, such as [\"/bin/sh\", \"-c\"]";
                return Err(SyntaxError::new(at, why));
            }
        },
        _ => Kind::Onbuild(onbuild(line, rest)?),
    })
}

/// Refuses variables that are not well written, whose values nobody knows yet.
fn variables(keyword: &str, kind: &Kind, line: &Line, rest: &str, escape: char) -> Result<(), SyntaxError> {
    let expander = Expander { escape, lookup: &|_| Some("x".to_owned()) };
    let check = |word: &str, at| match expander.word(word) {
        Ok(_) => Ok(()),
        Err(e) => Err(SyntaxError::new(at, e)),
    };
    let (flags, arguments) = flags::cut(rest, escape);
    let mut mounts = match kind {
        Kind::Run(r) => r.mounts.iter(),
        _ => [].iter(),
    };
    for (offset, flag) in &flags {
        let at = line.at(line.text.len() - rest.len() + offset);
        match flag.split_once('=') {
            Some(("--mount", _)) => {
                if let Some(m) = mounts.next() {
                    [&m.target, &m.source, &m.from, &m.id]
                        .into_iter()
                        .try_for_each(|field| check(field, at))?;
                }
            }
            Some((
                "--platform" | "--network" | "--from" | "--chown" | "--chmod" | "--checksum" | "--exclude",
                value,
            )) => check(value, at)?,
            _ => {}
        }
    }
    let words = match keyword {
        "ENV" | "LABEL" | "ARG" => split::raw_words(rest, escape),
        "USER" | "WORKDIR" | "STOPSIGNAL" => vec![rest],
        "FROM" | "EXPOSE" | "VOLUME" | "COPY" | "ADD" => match split::json(arguments) {
            Some(items) => {
                for (item, at) in items.iter().zip(split::json_items(arguments)) {
                    check(item, line.place(&arguments[at..]))?;
                }
                Vec::new()
            }
            None => arguments.split_whitespace().collect(),
        },
        _ => Vec::new(),
    };
    let opens = |word: &str| !line.heredocs.is_empty() && heredoc::word(word, escape).is_some();
    for word in words.into_iter().filter(|w| !opens(w)) {
        check(word, line.place(word))?;
    }
    // The shell of a RUN replaces its own.
    if matches!(kind, Kind::Copy(_) | Kind::Add(_)) {
        for doc in line.heredocs.iter().filter(|doc| doc.expand) {
            let read = expander.heredoc(&doc.text());
            read.map_err(|(character, e)| SyntaxError::new(doc.place(character), e))?;
        }
    }
    Ok(())
}

fn one(line: &Line, rest: &str, keyword: &str) -> Result<String, SyntaxError> {
    // Blanks may be in a quoted or replaced part; what is certainly two words is refused.
    let plain = !rest.contains(['"', '\'', '$', '\\', '`']);
    if plain && rest.contains(char::is_whitespace) {
        return Err(SyntaxError::new(line.place(rest), format!("{keyword} requires exactly one argument")));
    }
    Ok(rest.to_owned())
}

fn from(line: &Line, rest: &str, escape: char) -> Result<FromImage, SyntaxError> {
    let (mut flags, arguments) = Flags::read("FROM", line, rest, escape, &["platform"])?;
    let platform = flags.one("platform")?;
    let words: Vec<&str> = arguments.split_whitespace().collect();
    let (image, name) = match words.as_slice() {
        [image] => (*image, None),
        [image, r#as, name] if r#as.eq_ignore_ascii_case("AS") => (*image, Some(*name)),
        _ => {
            let why = "FROM requires either one or three arguments: FROM IMAGE [AS NAME]";
            return Err(SyntaxError::new(line.place(arguments), why));
        }
    };
    if let Some(name) = name {
        let good = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !good {
            let why = format!(
                "invalid name for build stage: {name:?}, name can't start with a number or contain symbols"
            );
            return Err(SyntaxError::new(line.place(name), why));
        }
        if name.eq_ignore_ascii_case("scratch") {
            return Err(SyntaxError::new(line.place(name), "a stage cannot be called scratch"));
        }
    }
    let (at, name) = (line.place(image), name.map(str::to_ascii_lowercase));
    Ok(FromImage { image: image.to_owned(), at, name, platform })
}

fn run(line: &Line, rest: &str, escape: char) -> Result<Run, SyntaxError> {
    let (mut flags, arguments) = Flags::read("RUN", line, rest, escape, &["mount", "network", "security"])?;
    let mut mounts = Vec::new();
    for (text, at) in flags.all("mount")? {
        mounts.push(Mount::parse(&text).map_err(|e| SyntaxError::new(at, e))?);
    }
    let at = line.place(arguments);
    let network = flags.one("network")?;
    if let Some(n) = network.as_deref()
        && !["default", "none", "host"].contains(&n)
        && !n.contains('$')
    {
        return Err(SyntaxError::new(at, format!("unknown network mode {n:?}: default, none or host")));
    }
    let security = match flags.one("security")?.as_deref() {
        None | Some("sandbox") => Security::Sandbox,
        Some("insecure") => Security::Insecure,
        Some(other) => {
            let why = format!("security {other:?} is not valid: sandbox or insecure");
            return Err(SyntaxError::new(at, why));
        }
    };
    if arguments.is_empty() {
        return Err(SyntaxError::new(at, "RUN requires at least one argument"));
    }
    let command = command::read(arguments);
    if matches!(&command, Command::Exec(list) if list.is_empty()) {
        return Err(SyntaxError::new(at, "RUN requires at least one argument"));
    }
    Ok(Run { command, heredocs: line.heredocs.clone(), mounts, network, security })
}

fn copy(keyword: &'static str, line: &Line, rest: &str, escape: char) -> Result<Copy, SyntaxError> {
    let known: &[&str] = match keyword {
        "COPY" => &["from", "chown", "chmod", "link", "parents", "exclude"],
        _ => &["chown", "chmod", "link", "exclude", "checksum", "keep-git-dir", "unpack"],
    };
    let (mut flags, arguments) = Flags::read(keyword, line, rest, escape, known)?;
    let has = |name: &str| known.contains(&name);
    let at = line.place(arguments);
    let mut words = match split::json(arguments) {
        Some(list) => list,
        None => arguments.split_whitespace().map(str::to_owned).collect(),
    };
    let destination = words.pop().unwrap_or_default();
    let opens = |w: &String| heredoc::word(w, escape).is_some();
    if !line.heredocs.is_empty() && opens(&destination) {
        return Err(SyntaxError::new(at, format!("{keyword} cannot accept a heredoc as a destination")));
    }
    let sources: Vec<String> = words.into_iter().filter(|w| line.heredocs.is_empty() || !opens(w)).collect();
    if sources.is_empty() && line.heredocs.is_empty() {
        let why = format!(
            "{keyword} requires at least two arguments, but only one was provided. Destination could not be determined"
        );
        return Err(SyntaxError::new(at, why));
    }
    Ok(Copy {
        sources,
        heredocs: line.heredocs.clone(),
        destination,
        from: if has("from") { flags.one("from")? } else { None },
        chown: flags.one("chown")?,
        chmod: flags.one("chmod")?,
        link: flags.switch("link")?,
        parents: has("parents") && flags.switch("parents")?,
        exclude: flags.all("exclude")?.into_iter().map(|(v, _)| v).collect(),
        checksum: if has("checksum") { flags.one("checksum")? } else { None },
        keep_git_dir: has("keep-git-dir") && flags.switch("keep-git-dir")?,
        unpack: match has("unpack") && flags.has("unpack") {
            true => Some(flags.switch("unpack")?),
            false => None,
        },
    })
}

/// `NAME=value ...`, or the old form `NAME value`. Quotes and variables are left as they are.
fn pairs(
    keyword: &'static str,
    line: &Line,
    rest: &str,
    escape: char,
) -> Result<Vec<(String, String)>, SyntaxError> {
    let words = split::raw_words(rest, escape);
    let first = words.first().copied().unwrap_or_default();
    if !first.contains('=') {
        let (name, value) = split::first_word(rest);
        if value.is_empty() {
            let why = format!("{keyword} must have two arguments: {keyword} NAME=value");
            return Err(SyntaxError::new(line.place(rest), why));
        }
        return Ok(vec![(name.to_owned(), value.to_owned())]);
    }
    let mut out = Vec::new();
    for word in words {
        let Some((name, value)) = word.split_once('=') else {
            let why = format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value");
            return Err(SyntaxError::new(line.place(word), why));
        };
        if name.is_empty() {
            return Err(SyntaxError::new(line.place(word), format!("{keyword} names can not be blank")));
        }
        out.push((name.to_owned(), value.to_owned()));
    }
    Ok(out)
}

fn arguments(line: &Line, rest: &str, escape: char) -> Result<Vec<(String, Option<String>)>, SyntaxError> {
    let mut out = Vec::new();
    for word in split::raw_words(rest, escape) {
        let (name, value) = match word.split_once('=') {
            Some((n, v)) => (n, Some(v.to_owned())),
            None => (word, None),
        };
        if name.is_empty() {
            return Err(SyntaxError::new(line.place(word), "ARG names can not be blank"));
        }
        let name = split::unquote(name, escape).unwrap_or_else(|| name.to_owned());
        out.push((name, value));
    }
    Ok(out)
}

fn onbuild(line: &Line, rest: &str) -> Result<String, SyntaxError> {
    let (word, _) = split::first_word(rest);
    let at = line.place(rest);
    match word.to_ascii_uppercase().as_str() {
        "ONBUILD" => {
            return Err(SyntaxError::new(at, "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"));
        }
        k @ ("FROM" | "MAINTAINER") => {
            return Err(SyntaxError::new(at, format!("{k} isn't allowed as an ONBUILD trigger")));
        }
        _ => {}
    }
    // The trigger with its here-documents, as it will be read again.
    let mut text = rest.to_owned();
    for doc in &line.heredocs {
        text.push('\n');
        text.push_str(&doc.content);
        text.push_str(&doc.name);
    }
    if let Err(e) = parse_one(&text) {
        return Err(SyntaxError::new(at, e.message));
    }
    Ok(text)
}
