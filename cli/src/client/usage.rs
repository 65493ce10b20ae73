//! Reads arguments as Docker's client reads them: switches take `=true` and `=false`, and what is wrong with
//! an argument is told in its words, with its exit codes (125 for an unknown flag, 1 otherwise).

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Command};

/// Why the arguments were not taken, or what to print instead of running.
pub struct Unread {
    /// For standard output (`--help`, `--version`).
    pub output: Option<String>,
    /// For standard error.
    pub error: Option<String>,
    /// Exit code.
    pub code: u8,
}

/// Reads arguments by a command's definition.
pub fn matches(command: Command, args: &[OsString]) -> Result<clap::ArgMatches, Unread> {
    let e = match switches(command.clone()).try_get_matches_from(args) {
        Ok(matches) => {
            let (path, found) = named(&command, args);
            return match unknown_flag(found, innermost(&matches)) {
                Some(flag) => {
                    let (text, code) = unknown(&flag, &path, found);
                    Err(Unread { output: None, error: Some(text), code })
                }
                None => Ok(matches),
            };
        }
        Err(e) => e,
    };
    if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // Told of the definition as it was written, in which switches take no value.
        let plain = command.try_get_matches_from(args).err();
        let output = plain.filter(|p| p.kind() == e.kind()).unwrap_or(e).to_string();
        return Err(Unread { output: Some(output), error: None, code: 0 });
    }
    let (path, found) = named(&command, args);
    if e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Err(Unread { output: Some(e.to_string()), error: None, code: 0 });
    }
    let (text, code) = worded(&e, &path, found);
    Err(Unread { output: None, error: Some(text), code })
}

fn innermost(matches: &clap::ArgMatches) -> &clap::ArgMatches {
    matches.subcommand().map_or(matches, |(_, inner)| innermost(inner))
}

/// A flag that was taken for the image: clap lets the words that are passed on (`IMAGE [COMMAND] [ARG...]`) begin
/// with a dash from the first on.
fn unknown_flag(command: &Command, matches: &clap::ArgMatches) -> Option<String> {
    let passed_on = command.get_positionals().find(|p| p.is_trailing_var_arg_set())?;
    let first = matches.get_raw(passed_on.get_id().as_str())?.next()?.to_str()?;
    let name = first.split('=').next().unwrap_or(first);
    (name.len() > 1 && name.starts_with('-')).then(|| name.to_owned())
}

/// Lets every switch take `=true` and `=false`.
fn switches(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        if !matches!(arg.get_action(), ArgAction::SetTrue) {
            return arg;
        }
        arg.action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .value_parser(switch)
            .default_missing_value("true")
            .default_value("false")
    });
    // Of a flag given twice the last counts.
    command.args_override_self(true).mut_subcommands(switches)
}

/// `name=value` of `--filter`.
pub fn filter(text: &str) -> Result<String, String> {
    if text.contains('=') {
        Ok(text.to_owned())
    } else {
        Err("bad format of filter (expected name=value)".into())
    }
}

/// Go's `strconv.ParseBool`.
fn switch(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("parsing the switch: invalid syntax".into()),
    }
}

/// The command that arguments name, with its path.
fn named<'a>(command: &'a Command, args: &[OsString]) -> (String, &'a Command) {
    let (mut path, mut at) = (command.get_name().to_owned(), command);
    for word in args.iter().skip(1).filter_map(|a| a.to_str()) {
        if let Some(next) = at.find_subcommand(word) {
            path = format!("{path} {}", next.get_name());
            at = next;
        }
    }
    (path, at)
}

fn worded(e: &clap::Error, path: &str, command: &Command) -> (String, u8) {
    let context = |kind| match e.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(list)) => list.join(", "),
        _ => String::new(),
    };
    let usage = usage(command, path);
    let more = format!("Run '{path} --help' for more information");
    let short = |text: String, code| (format!("{text}\n\nUsage:  {usage}\n\n{more}"), code);
    let argument = context(ContextKind::InvalidArg);
    match e.kind() {
        ErrorKind::InvalidSubcommand => {
            let root = path.split(' ').next().unwrap_or(path);
            let asked = format!("{path} {}", context(ContextKind::InvalidSubcommand));
            let usage = if path == root { String::new() } else { format!("\n\nUsage:  {path}") };
            (format!("{root}: unknown command: {asked}{usage}\n\n{more}"), 1)
        }
        ErrorKind::UnknownArgument if argument.starts_with('-') => unknown(&argument, path, command),
        ErrorKind::UnknownArgument | ErrorKind::TooManyValues => {
            short(format!("{}: '{path}' {}", root(path), arguments(command)), 1)
        }
        ErrorKind::MissingRequiredArgument | ErrorKind::TooFewValues => {
            let flags: Vec<_> = argument.split(", ").filter(|a| a.starts_with("--")).collect();
            if !flags.is_empty() {
                return short(format!("required flag(s) {} not set", flags.join(", ")), 1);
            }
            let more = if is_open(command) { more.replacen("Run", "See", 1) } else { more };
            let text = format!("{}: '{path}' {}", root(path), arguments(command));
            (format!("{text}\n\nUsage:  {usage}\n\n{more}"), 1)
        }
        ErrorKind::InvalidValue
        | ErrorKind::ValueValidation
        | ErrorKind::WrongNumberOfValues
        | ErrorKind::NoEquals => {
            let value = context(ContextKind::InvalidValue);
            let flag = argument.split([' ', '=', '[']).next().unwrap_or_default().to_owned();
            let short_of = |a: &clap::Arg| {
                a.get_short().filter(|_| a.get_long().is_some_and(|l| flag == format!("--{l}")))
            };
            let flag = match command.get_arguments().find_map(short_of) {
                Some(letter) => format!("-{letter}, {flag}"),
                None => flag,
            };
            let why = std::error::Error::source(e).map(|s| format!(": {s}")).unwrap_or_default();
            if value.is_empty() {
                return short(format!("flag needs an argument: {flag}"), 125);
            }
            let valid = context(ContextKind::ValidValue);
            let valid = if valid.is_empty() { valid } else { format!(" (want one of: {valid})") };
            short(format!("invalid argument {value:?} for {flag:?} flag{why}{valid}"), 125)
        }
        _ => (e.to_string().trim_end().to_owned(), 125),
    }
}

fn unknown(flag: &str, path: &str, command: &Command) -> (String, u8) {
    let what = match flag.strip_prefix("--") {
        Some(_) => format!("unknown flag: {flag}"),
        None => {
            let letter = flag.chars().nth(1).unwrap_or('-');
            format!("unknown shorthand flag: '{letter}' in {flag}")
        }
    };
    let usage = usage(command, path);
    (format!("{what}\n\nUsage:  {usage}\n\nRun '{path} --help' for more information"), 125)
}

/// `skep stop [OPTIONS] CONTAINER [CONTAINER...]`.
fn usage(command: &Command, path: &str) -> String {
    let mut usage = path.to_owned();
    if command.get_opts().any(|a| a.get_id() != "help" && a.get_id() != "version") {
        usage += " [OPTIONS]";
    }
    if command.has_subcommands() {
        return usage + " COMMAND";
    }
    for positional in command.get_positionals() {
        let name = positional.get_value_names().and_then(<[_]>::first).map_or("ARG", |n| n.as_str());
        let many = matches!(positional.get_action(), ArgAction::Append);
        usage += &match (positional.is_required_set(), many) {
            // Image, command and arguments in one.
            _ if name.contains(' ') => format!(" {name}"),
            (true, true) => format!(" {name} [{name}...]"),
            (false, true) => format!(" [{name}...]"),
            (true, false) => format!(" {name}"),
            (false, false) => format!(" [{name}]"),
        };
    }
    usage
}

/// Gives every command of a definition its line of usage.
pub fn with_usage(command: Command, path: &str) -> Command {
    let usage = usage(&command, path);
    command.override_usage(usage).mut_subcommands(|sub| {
        let path = format!("{path} {}", sub.get_name());
        with_usage(sub, &path)
    })
}

fn root(path: &str) -> &str {
    path.split(' ').next().unwrap_or(path)
}

/// It takes any number of arguments.
fn is_open(command: &Command) -> bool {
    command.get_positionals().any(|p| matches!(p.get_action(), ArgAction::Append))
}

/// How many arguments a command takes.
fn arguments(command: &Command) -> String {
    let required = command.get_positionals().filter(|p| p.is_required_set());
    let least: usize = required.map(|p| p.get_num_args().map_or(1, |n| n.min_values().max(1))).sum();
    let most = command.get_positionals().count();
    let count = |n: usize| format!("{n} argument{}", if n == 1 { "" } else { "s" });
    match (least, most) {
        (_, 0) => "accepts no arguments".into(),
        (least, _) if is_open(command) => format!("requires at least {}", count(least)),
        (least, most) if least == most => format!("requires {}", count(most)),
        (0, most) => format!("requires at most {}", count(most)),
        (least, most) => format!("requires at least {least} and at most {}", count(most)),
    }
}
