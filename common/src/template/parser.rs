//! Builds the tree of a template out of its pieces.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a word other than the wanted one gets one message"
)]

use std::collections::BTreeMap;
use std::ops::Range;

use super::Trouble;
use super::functions;
use super::lexer::{Piece, Token, TokenKind};
use crate::diagnostic::suggest;

/// Something a template does.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(String),
    Print(Pipeline),
    If { test: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
    With { value: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
    Range { over: Pipeline, each: Vec<Node>, otherwise: Vec<Node> },
    Call { name: String, argument: Option<Pipeline>, span: Range<usize> },
    Break,
    Continue,
}

/// `$a, $b := command | command`.
#[derive(Debug, Clone)]
pub(super) struct Pipeline {
    pub(super) span: Range<usize>,
    pub(super) variables: Vec<String>,
    /// `=` and not `:=`.
    pub(super) assigns: bool,
    pub(super) commands: Vec<Vec<Operand>>,
}

/// One word of a command.
#[derive(Debug, Clone)]
pub(super) struct Operand {
    pub(super) span: Range<usize>,
    pub(super) kind: OperandKind,
    /// `.a.b` behind it.
    pub(super) fields: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) enum OperandKind {
    Function(String),
    Dot,
    Nil,
    Variable(String),
    Group(Box<Pipeline>),
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

/// A whole template: its body and what it defines.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) body: Vec<Node>,
    pub(super) defined: BTreeMap<String, Vec<Node>>,
}

/// Parses the pieces of a template.
pub(super) fn parse(pieces: Vec<Piece>) -> Result<Tree, Trouble> {
    let mut parser = Parser {
        pieces: pieces.into_iter(),
        tree: Tree::default(),
        variables: vec![String::new()],
        loops: 0,
        depth: 0,
    };
    let (body, end) = parser.block(None)?;
    if let Some(end) = end {
        return Err(Trouble::new(
            end.span,
            format!("`{}` without a block it belongs to", end.word),
            "remove it, or open a block with `if`, `with`, `range`, `define` or `block`",
        ));
    }
    parser.tree.body = body;
    Ok(parser.tree)
}

/// What ended a block: `end` or `else`, and what follows on it.
struct BlockEnd {
    word: &'static str,
    span: Range<usize>,
    rest: Tokens,
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
    tree: Tree,
    /// Names of the variables in scope.
    variables: Vec<String>,
    loops: usize,
    depth: usize,
}

impl Parser {
    /// Nodes up to `end`, `else`, or the end of the file when no block is open.
    fn block(
        &mut self,
        opened: Option<&Range<usize>>,
    ) -> Result<(Vec<Node>, Option<BlockEnd>), Trouble> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (span, tokens) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action { span, tokens } => (span, tokens),
            };
            let mut tokens = Tokens::new(span.clone(), tokens);
            let Some(keyword) = tokens.keyword() else {
                nodes.push(Node::Print(self.whole_pipeline(tokens, 1)?));
                continue;
            };
            if keyword == "end" || keyword == "else" {
                let word = if keyword == "end" { "end" } else { "else" };
                return Ok((nodes, Some(BlockEnd { word, span, rest: tokens })));
            }
            if let Some(node) = self.statement(&keyword, &span, tokens)? {
                nodes.push(node);
            }
        }
        match opened {
            None => Ok((nodes, None)),
            Some(span) => Err(Trouble::new(
                span.clone(),
                "the block that starts here is not closed",
                "close it with `{{ end }}`",
            )),
        }
    }

    fn statement(
        &mut self,
        keyword: &str,
        span: &Range<usize>,
        mut tokens: Tokens,
    ) -> Result<Option<Node>, Trouble> {
        match keyword {
            "if" | "with" | "range" => self.control(keyword, span, tokens).map(Some),
            "template" => {
                let name = tokens.name(keyword)?;
                let argument = match tokens.peek() {
                    None => None,
                    Some(_) => Some(self.whole_pipeline(tokens, 1)?),
                };
                Ok(Some(Node::Call { name, argument, span: span.clone() }))
            }
            "define" => self.define(span, tokens),
            "block" => {
                let name = tokens.name(keyword)?;
                let argument = Some(self.whole_pipeline(tokens, 1)?);
                let body = self.definition(span)?;
                self.tree.defined.entry(name.clone()).or_insert(body);
                Ok(Some(Node::Call { name, argument, span: span.clone() }))
            }
            _ => {
                tokens.finish()?;
                if self.loops == 0 {
                    return Err(Trouble::new(
                        span.clone(),
                        format!("`{keyword}` outside of `range`"),
                        "remove it, or move it between `{{ range … }}` and its `{{ end }}`",
                    ));
                }
                Ok(Some(if keyword == "break" { Node::Break } else { Node::Continue }))
            }
        }
    }

    fn define(&mut self, span: &Range<usize>, mut tokens: Tokens) -> Result<Option<Node>, Trouble> {
        let name = tokens.name("define")?;
        tokens.finish()?;
        if self.depth > 0 {
            return Err(Trouble::new(
                span.clone(),
                "`define` inside of another block",
                "move the definition to the top level of the file",
            ));
        }
        let body = self.definition(span)?;
        self.tree.defined.insert(name, body);
        Ok(None)
    }

    /// The body of `define` or `block`: it sees no variable and no loop of its surroundings.
    fn definition(&mut self, span: &Range<usize>) -> Result<Vec<Node>, Trouble> {
        let variables = std::mem::replace(&mut self.variables, vec![String::new()]);
        let loops = std::mem::take(&mut self.loops);
        self.depth += 1;
        let (body, end) = self.block(Some(span))?;
        self.depth -= 1;
        self.loops = loops;
        self.variables = variables;
        self.close(end)?;
        Ok(body)
    }

    fn close(&self, end: Option<BlockEnd>) -> Result<(), Trouble> {
        match end {
            Some(mut end) if end.word == "end" => end.rest.finish(),
            Some(end) => Err(Trouble::new(
                end.span,
                "`else` where `end` must stand",
                "close the block with `{{ end }}`",
            )),
            None => Ok(()),
        }
    }

    fn control(
        &mut self,
        keyword: &str,
        span: &Range<usize>,
        tokens: Tokens,
    ) -> Result<Node, Trouble> {
        let scope = self.variables.len();
        self.depth += 1;
        let head = self.whole_pipeline(tokens, if keyword == "range" { 2 } else { 1 })?;
        self.loops += usize::from(keyword == "range");
        let (then, end) = self.block(Some(span))?;
        self.loops -= usize::from(keyword == "range");
        let otherwise = match end {
            Some(end) if end.word == "else" => self.otherwise(keyword, span, end)?,
            end => {
                self.close(end)?;
                Vec::new()
            }
        };
        self.depth -= 1;
        self.variables.truncate(scope);
        Ok(match keyword {
            "if" => Node::If { test: head, then, otherwise },
            "with" => Node::With { value: head, then, otherwise },
            _ => Node::Range { over: head, each: then, otherwise },
        })
    }

    fn otherwise(
        &mut self,
        keyword: &str,
        span: &Range<usize>,
        mut end: BlockEnd,
    ) -> Result<Vec<Node>, Trouble> {
        if keyword == "if" && end.rest.keyword_is("if") {
            end.rest.next();
            let span = end.span.clone();
            return Ok(vec![self.control("if", &span, end.rest)?]);
        }
        end.rest.finish()?;
        let (nodes, end) = self.block(Some(span))?;
        self.close(end)?;
        Ok(nodes)
    }

    fn whole_pipeline(&mut self, mut tokens: Tokens, most: usize) -> Result<Pipeline, Trouble> {
        let pipeline = self.pipeline(&mut tokens, most)?;
        tokens.finish()?;
        Ok(pipeline)
    }

    /// A pipeline that declares at most `most` variables.
    fn pipeline(&mut self, tokens: &mut Tokens, most: usize) -> Result<Pipeline, Trouble> {
        let start = tokens.here();
        let (variables, assigns) = tokens.declaration(most);
        let mut commands = Vec::new();
        loop {
            let command = self.command(tokens)?;
            self.check_stage(&command, commands.len())?;
            commands.push(command);
            if !tokens.take(&TokenKind::Pipe) {
                break;
            }
        }
        if assigns {
            for name in &variables {
                self.known(name, &start)?;
            }
        } else {
            self.variables.extend(variables.iter().cloned());
        }
        let end = tokens.before();
        Ok(Pipeline { span: start.start..end.max(start.start), variables, assigns, commands })
    }

    fn check_stage(&self, command: &[Operand], stage: usize) -> Result<(), Trouble> {
        let constant = |kind: &OperandKind| {
            matches!(
                kind,
                OperandKind::Bool(_)
                    | OperandKind::Int(_)
                    | OperandKind::Float(_)
                    | OperandKind::Text(_)
                    | OperandKind::Dot
                    | OperandKind::Nil
            )
        };
        match command.first() {
            Some(first) if stage > 0 && constant(&first.kind) && first.fields.is_empty() => {
                Err(Trouble::new(
                    first.span.clone(),
                    "only a function can take what comes through `|`",
                    "put a function such as `printf` behind the `|`",
                ))
            }
            _ => Ok(()),
        }
    }

    fn command(&mut self, tokens: &mut Tokens) -> Result<Vec<Operand>, Trouble> {
        let mut words: Vec<Operand> = Vec::new();
        while let Some(token) = tokens.peek() {
            if matches!(token.kind, TokenKind::Pipe | TokenKind::Close) {
                break;
            }
            if !words.is_empty() && !token.spaced && !matches!(token.kind, TokenKind::Open) {
                return Err(tokens.unexpected());
            }
            words.push(self.operand(tokens)?);
        }
        if words.is_empty() {
            return Err(Trouble::new(
                tokens.here(),
                "a value is missing",
                "write a field, a variable, a function or a constant",
            ));
        }
        Ok(words)
    }

    fn operand(&mut self, tokens: &mut Tokens) -> Result<Operand, Trouble> {
        let unexpected = tokens.unexpected();
        let Some(token) = tokens.next() else { return Err(unexpected) };
        let mut fields = Vec::new();
        let kind = match token.kind {
            TokenKind::Word(word) => self.word(word, &token.span)?,
            TokenKind::Field(name) => {
                fields.push(name);
                OperandKind::Dot
            }
            TokenKind::Variable(name) => {
                self.known(&name, &token.span)?;
                OperandKind::Variable(name)
            }
            TokenKind::Dot => OperandKind::Dot,
            TokenKind::Int(value) => OperandKind::Int(value),
            TokenKind::Float(value) => OperandKind::Float(value),
            TokenKind::Text(value) => OperandKind::Text(value),
            TokenKind::Open => {
                let inner = self.pipeline(tokens, 0)?;
                if !tokens.take(&TokenKind::Close) {
                    return Err(Trouble::new(
                        token.span,
                        "the parenthesis is not closed",
                        "close it with `)`",
                    ));
                }
                OperandKind::Group(Box::new(inner))
            }
            TokenKind::Pipe
            | TokenKind::Close
            | TokenKind::Comma
            | TokenKind::Declare
            | TokenKind::Assign => return Err(unexpected),
        };
        while let Some(name) = tokens.chained_field() {
            fields.push(name);
        }
        Ok(Operand { span: token.span.start..tokens.before(), kind, fields })
    }

    fn word(&self, word: String, span: &Range<usize>) -> Result<OperandKind, Trouble> {
        match word.as_str() {
            "true" => Ok(OperandKind::Bool(true)),
            "false" => Ok(OperandKind::Bool(false)),
            "nil" => Ok(OperandKind::Nil),
            name if functions::NAMES.contains(&name) => Ok(OperandKind::Function(word)),
            name => Err(Trouble::new(
                span.clone(),
                format!("function `{name}` is not defined"),
                suggest(name, functions::NAMES.iter().copied()),
            )),
        }
    }

    fn known(&self, name: &str, span: &Range<usize>) -> Result<(), Trouble> {
        if self.variables.iter().any(|known| known == name) {
            return Ok(());
        }
        Err(Trouble::new(
            span.clone(),
            format!("variable `${name}` is not defined"),
            format!("declare it before with `{{{{ ${name} := … }}}}` in this block or around it"),
        ))
    }
}

const KEYWORDS: &[&str] =
    &["if", "else", "end", "with", "range", "define", "template", "block", "break", "continue"];

/// The tokens of one action, read from the front.
struct Tokens {
    action: Range<usize>,
    tokens: Vec<Token>,
    at: usize,
}

impl Tokens {
    fn new(action: Range<usize>, tokens: Vec<Token>) -> Self {
        Self { action, tokens, at: 0 }
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn take(&mut self, kind: &TokenKind) -> bool {
        let found = self.peek().is_some_and(|token| token.kind == *kind);
        self.at += usize::from(found);
        found
    }

    /// The keyword the action starts with.
    fn keyword(&mut self) -> Option<String> {
        let word = match &self.peek()?.kind {
            TokenKind::Word(word) if KEYWORDS.contains(&word.as_str()) => word.clone(),
            _ => return None,
        };
        self.at += 1;
        Some(word)
    }

    fn keyword_is(&self, word: &str) -> bool {
        matches!(self.peek(), Some(Token { kind: TokenKind::Word(found), .. }) if found == word)
    }

    /// The name of a template behind `define`, `template` or `block`.
    fn name(&mut self, keyword: &str) -> Result<String, Trouble> {
        match self.next() {
            Some(Token { kind: TokenKind::Text(name), .. }) => Ok(name),
            _ => Err(Trouble::new(
                self.action.clone(),
                format!("`{keyword}` without a name"),
                format!("write the name in quotes: `{{{{ {keyword} \"name\" }}}}`"),
            )),
        }
    }

    /// `$a :=`, `$a, $b :=` or `$a =`.
    fn declaration(&mut self, most: usize) -> (Vec<String>, bool) {
        let mut names = Vec::new();
        let mut at = self.at;
        while let Some(Token { kind: TokenKind::Variable(name), .. }) = self.tokens.get(at) {
            names.push(name.clone());
            let next = self.tokens.get(at + 1).map(|token| &token.kind);
            match next {
                Some(TokenKind::Comma) if names.len() < most => at += 2,
                Some(TokenKind::Declare | TokenKind::Assign) if names.len() <= most => {
                    let assigns = next == Some(&TokenKind::Assign);
                    self.at = at + 2;
                    return (names, assigns);
                }
                _ => break,
            }
        }
        (Vec::new(), false)
    }

    /// A field that follows without white space.
    fn chained_field(&mut self) -> Option<String> {
        match self.peek() {
            Some(Token { kind: TokenKind::Field(name), spaced: false, .. }) => {
                let name = name.clone();
                self.at += 1;
                Some(name)
            }
            _ => None,
        }
    }

    /// Where the next token stands, or the end of the action.
    fn here(&self) -> Range<usize> {
        self.peek().map_or(self.action.clone(), |token| token.span.clone())
    }

    /// Where the token before ended.
    fn before(&self) -> usize {
        let last = self.at.checked_sub(1).and_then(|at| self.tokens.get(at));
        last.map_or(self.action.end, |token| token.span.end)
    }

    fn unexpected(&self) -> Trouble {
        Trouble::new(
            self.here(),
            "this is not expected here",
            "check the order of the action's words",
        )
    }

    fn finish(&mut self) -> Result<(), Trouble> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.unexpected()),
        }
    }
}
