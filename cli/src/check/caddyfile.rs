//! The syntax of Corefiles: server blocks with directives, one a line, some with blocks of their own. Pure.
//!
//! As the `caddyfile` package of CoreDNS reads it: words between white space, quotes, comments from a `#` that begins a word,
//! lines joined by a backslash, snippets `(name)` and their `import`. What directives mean is not known here.

use std::collections::HashMap;

use thiserror::Error;

/// Imports within imports at most: a snippet may import itself.
const DEEPEST_IMPORT: usize = 8;

/// What is no Corefile.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum SyntaxError {
    #[error("line {line}: a `}}` too many")]
    Unopened { line: usize },
    #[error("line {line}: the block that begins here has no `}}`")]
    Unclosed { line: usize },
    #[error("line {line}: the quotes that begin here do not end")]
    Quotes { line: usize },
    #[error("line {line}: a block without a name before it")]
    Nameless { line: usize },
    #[error("line {line}: snippets import each other without end")]
    Endless { line: usize },
    #[error("there is no server block in it")]
    Empty,
}

/// `zone... { directives }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) zones: Vec<String>,
    pub(super) line: usize,
    pub(super) directives: Vec<Directive>,
}

/// A line, and the block that it opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Directive {
    pub(super) name: String,
    pub(super) arguments: Vec<String>,
    pub(super) line: usize,
    pub(super) block: Vec<Self>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    text: String,
    line: usize,
    /// Quoted braces open nothing.
    quoted: bool,
    begins_line: bool,
}

/// Reads a whole file.
pub(super) fn parse(text: &str) -> Result<Vec<Server>, SyntaxError> {
    let words = words(text)?;
    let mut reader = Reader { words: &words, at: 0 };
    let mut top = reader.directives(None)?;
    // One server may stand without braces: its zones are the first line, everything else is in it.
    if top.first().is_some_and(|first| first.block.is_empty() && !ends_with_brace(&words, first)) {
        let first = top.remove(0);
        let zones = zones(&first);
        top = vec![Directive { name: String::new(), arguments: zones, line: first.line, block: top }];
    }
    let (snippets, servers): (Vec<_>, Vec<_>) = top.into_iter().partition(|one| is_snippet(&one.name));
    let snippets: HashMap<String, Vec<Directive>> =
        snippets.into_iter().map(|one| (one.name.trim_matches(['(', ')']).to_owned(), one.block)).collect();
    if servers.is_empty() {
        return Err(SyntaxError::Empty);
    }
    servers
        .into_iter()
        .map(|server| {
            let (zones, line) = (zones(&server), server.line);
            Ok(Server { zones, line, directives: expand(server.block, &snippets, 0)? })
        })
        .collect()
}

fn is_snippet(name: &str) -> bool {
    name.len() > 2 && name.starts_with('(') && name.ends_with(')')
}

/// The words of a line, which may be separated by commas.
fn zones(first: &Directive) -> Vec<String> {
    let words = std::iter::once(&first.name).chain(&first.arguments);
    let zones = words.map(|word| word.trim_matches(',').to_owned());
    zones.filter(|zone| !zone.is_empty()).collect()
}

fn ends_with_brace(words: &[Word], directive: &Directive) -> bool {
    words.iter().any(|word| word.line == directive.line && word.is("{"))
}

/// Snippets in place of their imports; files that are imported stay as they are.
fn expand(
    directives: Vec<Directive>,
    snippets: &HashMap<String, Vec<Directive>>,
    depth: usize,
) -> Result<Vec<Directive>, SyntaxError> {
    let mut expanded = Vec::new();
    for directive in directives {
        let snippet = directive.arguments.first().and_then(|name| snippets.get(name));
        match snippet.filter(|_| directive.name == "import") {
            Some(_) if depth == DEEPEST_IMPORT => return Err(SyntaxError::Endless { line: directive.line }),
            Some(snippet) => expanded.extend(expand(snippet.clone(), snippets, depth + 1)?),
            None => expanded.push(directive),
        }
    }
    Ok(expanded)
}

impl Word {
    fn is(&self, text: &str) -> bool {
        !self.quoted && self.text == text
    }
}

struct Reader<'a> {
    words: &'a [Word],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Lines until the `}` of the block that began at a line, or until the end.
    fn directives(&mut self, block: Option<usize>) -> Result<Vec<Directive>, SyntaxError> {
        let mut directives = Vec::new();
        while let Some(word) = self.next() {
            if word.is("}") {
                return match block {
                    Some(_) => Ok(directives),
                    None => Err(SyntaxError::Unopened { line: word.line }),
                };
            }
            if word.is("{") {
                return Err(SyntaxError::Nameless { line: word.line });
            }
            directives.push(self.directive(word)?);
        }
        match block {
            Some(line) => Err(SyntaxError::Unclosed { line }),
            None => Ok(directives),
        }
    }

    fn directive(&mut self, first: &Word) -> Result<Directive, SyntaxError> {
        let mut directive = Directive {
            name: first.text.clone(),
            arguments: Vec::new(),
            line: first.line,
            block: Vec::new(),
        };
        while let Some(word) = self.words.get(self.at) {
            // Zones may go on in the next line after a comma.
            let goes_on = directive.arguments.last().unwrap_or(&directive.name).ends_with(',');
            if word.begins_line && !goes_on || word.is("}") {
                break;
            }
            self.at += 1;
            if word.is("{") {
                directive.block = self.directives(Some(word.line))?;
                break;
            }
            directive.arguments.push(word.text.clone());
        }
        Ok(directive)
    }

    fn next(&mut self) -> Option<&'a Word> {
        let word = self.words.get(self.at)?;
        self.at += 1;
        Some(word)
    }
}

fn words(text: &str) -> Result<Vec<Word>, SyntaxError> {
    let mut words: Vec<Word> = Vec::new();
    let mut characters = text.chars().peekable();
    let (mut line, mut begins_line) = (1, true);
    while let Some(&character) = characters.peek() {
        match character {
            '\n' => {
                characters.next();
                line += 1;
                begins_line = true;
            }
            character if character.is_whitespace() => drop(characters.next()),
            '#' => while characters.next_if(|character| *character != '\n').is_some() {},
            _ => {
                let begun = line;
                let (text, quoted) = word(&mut characters, &mut line)?;
                // A backslash at the end of a line joins it with the next.
                if text == "\\" && !quoted && characters.next_if_eq(&'\n').is_some() {
                    line += 1;
                    continue;
                }
                words.push(Word { text, line: begun, quoted, begins_line });
                begins_line = false;
            }
        }
    }
    Ok(words)
}

fn word(
    characters: &mut std::iter::Peekable<std::str::Chars<'_>>,
    line: &mut usize,
) -> Result<(String, bool), SyntaxError> {
    let (mut text, begun) = (String::new(), *line);
    if characters.next_if_eq(&'"').is_none() {
        while let Some(character) = characters.next_if(|character| !character.is_whitespace()) {
            text.push(character);
        }
        return Ok((text, false));
    }
    while let Some(character) = characters.next() {
        match character {
            '"' => return Ok((text, true)),
            '\\' if characters.next_if_eq(&'"').is_some() => text.push('"'),
            character => {
                *line += usize::from(character == '\n');
                text.push(character);
            }
        }
    }
    Err(SyntaxError::Quotes { line: begun })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Server {
        let mut servers = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(servers.len(), 1, "{servers:?}");
        servers.remove(0)
    }

    fn names(directives: &[Directive]) -> Vec<&str> {
        directives.iter().map(|directive| directive.name.as_str()).collect()
    }

    #[test]
    fn blocks_lines_and_comments_are_read() {
        let text = "# first\n.:53 example.org { # zones\n  errors\n  cache 30 {\n    servfail 0\n  }\n  forward . \\\n    10.0.0.1 #x\n}\n";
        let server = one(text);
        assert_eq!((server.zones.join(" "), server.line), (".:53 example.org".into(), 2));
        assert_eq!(names(&server.directives), ["errors", "cache", "forward"]);
        let cache = &server.directives[1];
        assert_eq!((cache.arguments.join(" "), names(&cache.block)), ("30".into(), vec!["servfail"]));
        assert_eq!(
            (server.directives[2].arguments.join(" "), server.directives[2].line),
            (". 10.0.0.1".into(), 7)
        );
    }

    #[test]
    fn quotes_hold_braces_and_lines() {
        let server = one(
            ". {\n  template IN A {\n    answer \"{{ .Name }} 60 IN A \\\"x\\\"\n next {\"\n  }\n  log\n}",
        );
        assert_eq!(names(&server.directives), ["template", "log"]);
        assert_eq!(server.directives[0].block[0].arguments, ["{{ .Name }} 60 IN A \"x\"\n next {"]);
        assert_eq!(server.directives[1].line, 6);
    }

    #[test]
    fn one_server_needs_no_braces() {
        let server = one("example.org\nforward . 10.0.0.1\nlog\n");
        assert_eq!(server.zones, ["example.org"]);
        assert_eq!(names(&server.directives), ["forward", "log"]);
        assert_eq!(one("a.example, \n b.example { \n log\n }").zones, ["a.example", "b.example"]);
    }

    #[test]
    fn snippets_stand_where_they_are_imported() {
        let text = "(common) {\n  errors\n  cache\n}\na.example {\n  import common\n  import /etc/other\n}\nb.example {\n}\n";
        let servers = parse(text).unwrap();
        assert_eq!(servers.len(), 2);
        assert_eq!(names(&servers[0].directives), ["errors", "cache", "import"]);
        let endless = "(a) {\n import b\n}\n(b) {\n import a\n}\n. {\n import a\n}";
        assert!(matches!(parse(endless), Err(SyntaxError::Endless { .. })));
    }

    #[test]
    fn what_is_no_corefile_is_said_with_its_line() {
        for (text, error) in [
            (". {\n log\n", SyntaxError::Unclosed { line: 1 }),
            (". {\n}\n}\n", SyntaxError::Unopened { line: 3 }),
            (". {\n {\n", SyntaxError::Nameless { line: 2 }),
            (". {\n log \"a\n", SyntaxError::Quotes { line: 2 }),
            ("# nothing\n", SyntaxError::Empty),
            ("", SyntaxError::Empty),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }
}
