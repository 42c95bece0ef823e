//! The interactive shell: the commands of the command line, typed one after the other over one connection, with history and completion.
//! A line means what it would mean as arguments of the program; nothing is done here but reading lines.

use super::args::{Arguments, Command};
use super::exit::{Exit, Trouble};
use super::output::Output;
use super::perform;
use apexkv_client::{Client, Error};
use clap::{CommandFactory, Parser, Subcommand};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, Helper};
use std::io::{self, IsTerminal};
use std::path::PathBuf;

/// Lines kept between sessions.
const HISTORY_LINES_MAX: usize = 1_000;
const GREETING: &str = "Type help for the commands, Tab to complete them, Ctrl-D to leave.";

/// One line of input.
#[derive(Debug, Parser)]
#[command(multicall = true, help_template = "{subcommands}")]
struct Line {
    #[command(subcommand)]
    word: Word,
}

#[derive(Debug, Subcommand)]
enum Word {
    #[command(flatten)]
    Command(Command),
    /// Leave the shell, as Ctrl-D does
    #[command(visible_alias = "quit")]
    Exit,
}

/// The grammar of a line. What only makes sense as a whole program is left out of the help.
fn grammar() -> clap::Command {
    Line::command().mut_subcommand("shell", |shell| shell.hide(true)).mut_subcommand("completions", |shell| shell.hide(true))
}

/// Reads lines until the input ends. On a terminal a failed command is the user's to judge and the shell succeeds; a script's shell
/// goes on too, and ends with the code of the last command that failed.
pub(crate) fn run(arguments: &Arguments, client: &mut Client) -> Exit {
    let interactive = io::stdin().is_terminal();
    let mut editor = match editor(interactive) {
        Ok(editor) => editor,
        Err(error) => return complain(arguments, Trouble::Local("set up the terminal", io::Error::other(error))),
    };
    let history = if interactive { history_file() } else { None };
    if let Some(path) = &history {
        // There is none before the first session.
        let _ = editor.load_history(path);
    }
    if interactive {
        let _ = Output::new(arguments.output).note(GREETING);
    }
    let mut last_failure = Exit::Success;
    loop {
        let prompt = format!("{}> ", client.endpoint().unwrap_or("apexkv"));
        let line = match editor.readline(&prompt) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return complain(arguments, Trouble::Local("read standard input", io::Error::other(error))),
        };
        if let (Ok(true), Some(path)) = (editor.add_history_entry(line.trim_end()), &history) {
            // A history that cannot be kept is no reason to keep the user from working.
            let _ = editor.append_history(path);
        }
        match interpret(arguments, client, &line) {
            Some(Exit::Success) => {}
            Some(failed) => last_failure = failed,
            None => break,
        }
    }
    if interactive { Exit::Success } else { last_failure }
}

/// Carries out one line. None: the user wants to leave.
fn interpret(arguments: &Arguments, client: &mut Client, line: &str) -> Option<Exit> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Some(Exit::Success);
    }
    let Some(words) = shlex::split(line) else {
        let reason =
            "a quote is not closed, or the line ends in a backslash; put a quote that is meant as such between quotes of the other kind";
        return Some(complain(arguments, Error::Usage(reason.to_owned()).into()));
    };
    match grammar().try_get_matches_from(words).and_then(|matches| <Line as clap::FromArgMatches>::from_arg_matches(&matches)) {
        Ok(Line { word: Word::Exit }) => None,
        Ok(Line { word: Word::Command(Command::Set { value, .. } | Command::Cas { value, .. }) }) if value == "-" => {
            let reason = "standard input is where the shell's lines come from; give the value itself, in quotes if it has spaces";
            Some(complain(arguments, Error::Usage(reason.to_owned()).into()))
        }
        Ok(Line { word: Word::Command(command) }) => Some(perform(arguments, &command, client)),
        Err(refusal) => {
            let _ = refusal.print();
            Some(if refusal.use_stderr() { Exit::Usage } else { Exit::Success })
        }
    }
}

fn complain(arguments: &Arguments, trouble: Trouble) -> Exit {
    Output::new(arguments.output).trouble(&trouble, None);
    trouble.exit()
}

fn editor(interactive: bool) -> rustyline::Result<Editor<Words, FileHistory>> {
    let config = Config::builder().max_history_size(HISTORY_LINES_MAX)?.history_ignore_space(true).history_ignore_dups(true)?;
    let mut editor = Editor::with_config(config.completion_type(CompletionType::List).build())?;
    if interactive {
        editor.set_helper(Some(Words(grammar())));
    }
    Ok(editor)
}

/// Where lines are kept between sessions: `$XDG_STATE_HOME/apexkv`, by default `~/.local/state/apexkv`. The editor makes the file
/// readable for its owner only, since values may be secrets; a line that begins with a space is not kept.
fn history_file() -> Option<PathBuf> {
    let folder = |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = folder("XDG_STATE_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/state")))?.join("apexkv");
    std::fs::create_dir_all(&state).ok()?;
    Some(state.join("shell_history"))
}

/// Prints the completion script of the whole program.
pub(crate) fn completions(output: &mut Output, shell: clap_complete::Shell) -> Result<Exit, Trouble> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "apexkv-client", &mut script);
    output.raw(&script)?;
    Ok(Exit::Success)
}

/// Completes names of commands, and then the flags of the command that the line begins with.
struct Words(clap::Command);

impl Words {
    fn candidates(&self, before: &[&str], begun: &str) -> Vec<String> {
        let names = || self.0.get_subcommands().filter(|command| !command.is_hide_set()).map(|command| command.get_name().to_owned());
        let mut found: Vec<String> = match before {
            [] => names().chain(["help".to_owned()]).collect(),
            ["help"] => names().collect(),
            [command, ..] => match self.0.find_subcommand(command) {
                Some(command) => command.get_arguments().filter_map(|flag| flag.get_long().map(|name| format!("--{name}"))).collect(),
                None => Vec::new(),
            },
        };
        found.retain(|candidate| candidate.starts_with(begun));
        found.sort();
        found
    }
}

impl Completer for Words {
    type Candidate = String;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let line = &line[..position];
        let start = line.char_indices().rfind(|(_, letter)| letter.is_whitespace()).map_or(0, |(at, blank)| at + blank.len_utf8());
        let before: Vec<&str> = line[..start].split_whitespace().collect();
        Ok((start, self.candidates(&before, &line[start..])))
    }
}

impl Hinter for Words {
    type Hint = String;
}

impl Highlighter for Words {}
impl Validator for Words {}
impl Helper for Words {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        grammar().debug_assert();
    }

    #[test]
    fn commands_and_flags_complete() {
        let words = Words(grammar());
        assert_eq!(words.candidates(&[], "s"), ["scan", "set", "status"]);
        assert_eq!(words.candidates(&["help"], "get"), ["get", "getv"]);
        assert_eq!(words.candidates(&["scan", "prefix"], "--k"), ["--keys-only"]);
        assert_eq!(words.candidates(&["status"], "-"), ["--wait-leader"]);
        assert!(words.candidates(&["no such command"], "").is_empty());
        let history = rustyline::history::DefaultHistory::new();
        let context = Context::new(&history);
        assert_eq!(words.complete("get\u{3000}", 6, &context).ok(), Some((6, Vec::new())), "a blank of three bytes");
    }
}
