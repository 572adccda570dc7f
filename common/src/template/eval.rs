//! Executes the tree of a template.

#![expect(clippy::wildcard_enum_match_arm, reason = "a value of any other type gets one message")]

use std::collections::BTreeMap;
use std::ops::Range;

use super::functions::{self, Failure};
use super::parser::{Node, Operand, OperandKind, Pipeline, Tree};
use super::value::Value;
use super::{Resources, Trouble};
use crate::diagnostic::suggest;

/// How deep templates may call each other.
const DEPTH: usize = 100;
/// How large the output may get, so that an endless recursion of ranges ends with a message.
const OUTPUT: usize = 64 << 20;

/// Executes `tree` with `env` as `.Env`.
pub(super) fn execute(
    tree: &Tree,
    env: &BTreeMap<String, Value>,
    load: &Resources<'_>,
) -> Result<String, Trouble> {
    let root = Value::Root(BTreeMap::from([("Env".to_owned(), Value::Env(env.clone()))]));
    let mut run = Run { tree, env, load, out: String::new(), variables: Vec::new(), depth: 0 };
    run.variables.push((String::new(), root.clone()));
    run.nodes(&tree.body, &root)?;
    Ok(run.out)
}

/// How a list of nodes ended.
#[derive(PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Run<'a> {
    tree: &'a Tree,
    env: &'a BTreeMap<String, Value>,
    load: &'a Resources<'a>,
    out: String,
    /// Variables in scope, innermost last.
    variables: Vec<(String, Value)>,
    depth: usize,
}

impl Run<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, Trouble> {
        for node in nodes {
            let flow = self.node(node, dot)?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn scoped(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, Trouble> {
        let scope = self.variables.len();
        let flow = self.nodes(nodes, dot);
        self.variables.truncate(scope);
        flow
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, Trouble> {
        let scope = self.variables.len();
        let flow = match node {
            Node::Text(text) => {
                self.out.push_str(text);
                return Ok(Flow::On);
            }
            Node::Print(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    self.print(&value, &pipeline.span)?;
                }
                // A declaration stays in scope up to the end of the block it stands in.
                return Ok(Flow::On);
            }
            Node::If { test, then, otherwise } => {
                let truth = self.pipeline(test, dot)?.truth();
                self.scoped(if truth { then } else { otherwise }, dot)?
            }
            Node::With { value, then, otherwise } => {
                let value = self.pipeline(value, dot)?;
                if value.truth() {
                    self.scoped(then, &value)?
                } else {
                    self.scoped(otherwise, dot)?
                }
            }
            Node::Range { over, each, otherwise } => self.range(over, each, otherwise, dot)?,
            Node::Call { name, argument, span } => {
                self.call_template(name, argument.as_ref(), span, dot)?;
                Flow::On
            }
            Node::Break => Flow::Break,
            Node::Continue => Flow::Continue,
        };
        self.variables.truncate(scope);
        Ok(flow)
    }

    fn print(&mut self, value: &Value, span: &Range<usize>) -> Result<(), Trouble> {
        self.out.push_str(&value.print());
        if self.out.len() > OUTPUT {
            return Err(Trouble::new(
                span.clone(),
                "the template's output is larger than 64 MiB",
                "check its loops",
            ));
        }
        Ok(())
    }

    fn range(
        &mut self,
        over: &Pipeline,
        each: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, Trouble> {
        let value = self.commands(over, dot)?;
        let items: Vec<(Value, Value)> = match value {
            Value::List(values) => (0..).map(Value::Int).zip(values).collect(),
            Value::Map(map) | Value::Env(map) => {
                map.into_iter().map(|(key, value)| (Value::Text(key), value)).collect()
            }
            Value::Missing => Vec::new(),
            other => {
                return Err(Trouble::new(
                    over.span.clone(),
                    format!("cannot range over {}", other.kind()),
                    "`range` takes a list or a map; `split` makes a list of a text",
                ));
            }
        };
        if items.is_empty() {
            return self.scoped(otherwise, dot);
        }
        let scope = self.variables.len();
        for (key, item) in items {
            match over.variables.as_slice() {
                [] => {}
                [only] => self.bind(only, item.clone(), over.assigns),
                [first, second, ..] => {
                    self.bind(first, key, over.assigns);
                    self.bind(second, item.clone(), over.assigns);
                }
            }
            let flow = self.scoped(each, &item)?;
            self.variables.truncate(scope);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn call_template(
        &mut self,
        name: &str,
        argument: Option<&Pipeline>,
        span: &Range<usize>,
        dot: &Value,
    ) -> Result<(), Trouble> {
        let argument = match argument {
            Some(pipeline) => self.pipeline(pipeline, dot)?,
            None => Value::Missing,
        };
        let tree = self.tree;
        let Some(body) = tree.defined.get(name) else {
            return Err(Trouble::new(
                span.clone(),
                format!("template `{name}` is not defined"),
                suggest(name, tree.defined.keys().map(String::as_str)),
            ));
        };
        if self.depth >= DEPTH {
            return Err(Trouble::new(
                span.clone(),
                format!("template `{name}` calls itself without end"),
                "end the recursion with an `if`",
            ));
        }
        let outer = std::mem::replace(&mut self.variables, vec![(String::new(), argument.clone())]);
        self.depth += 1;
        self.nodes(body, &argument)?;
        self.depth -= 1;
        self.variables = outer;
        Ok(())
    }

    fn bind(&mut self, name: &str, value: Value, assigns: bool) {
        if assigns
            && let Some((_, slot)) =
                self.variables.iter_mut().rev().find(|(known, _)| known == name)
        {
            *slot = value;
            return;
        }
        self.variables.push((name.to_owned(), value));
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, Trouble> {
        let value = self.commands(pipeline, dot)?;
        for name in &pipeline.variables {
            self.bind(name, value.clone(), pipeline.assigns);
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, Trouble> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, last, dot)?);
        }
        Ok(last.unwrap_or(Value::Missing))
    }

    fn command(
        &mut self,
        words: &[Operand],
        piped: Option<Value>,
        dot: &Value,
    ) -> Result<Value, Trouble> {
        let Some((first, args)) = words.split_first() else { return Ok(Value::Missing) };
        if let OperandKind::Function(name) = &first.kind
            && first.fields.is_empty()
        {
            let end = words.last().map_or(first.span.end, |word| word.span.end);
            return self.function(name, args, piped, dot, first.span.start..end);
        }
        if !args.is_empty() || piped.is_some() {
            return Err(Trouble::new(
                first.span.clone(),
                "only a function can have arguments",
                "put the name of a function first, for example `printf` or `index`",
            ));
        }
        self.operand(first, dot)
    }

    fn function(
        &mut self,
        name: &str,
        args: &[Operand],
        piped: Option<Value>,
        dot: &Value,
        span: Range<usize>,
    ) -> Result<Value, Trouble> {
        let failed = |(message, help): Failure| Trouble::new(span.clone(), message, help);
        if name == "and" || name == "or" {
            if args.is_empty() && piped.is_none() {
                return Err(failed(functions::arity(name, "at least one argument")));
            }
            let mut last = Value::Missing;
            for arg in args {
                last = self.operand(arg, dot)?;
                if last.truth() == (name == "or") {
                    return Ok(last);
                }
            }
            return Ok(piped.unwrap_or(last));
        }
        let mut values = Vec::with_capacity(args.len() + 1);
        for arg in args {
            values.push(self.operand(arg, dot)?);
        }
        values.extend(piped);
        functions::call(name, &values, self.env, self.load).map_err(failed)
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, Trouble> {
        let start = match &operand.kind {
            OperandKind::Dot => dot.clone(),
            OperandKind::Nil => Value::Missing,
            OperandKind::Variable(name) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                found.map_or(Value::Missing, |(_, value)| value.clone())
            }
            OperandKind::Group(pipeline) => self.pipeline(pipeline, dot)?,
            OperandKind::Bool(value) => Value::Bool(*value),
            OperandKind::Int(value) => Value::Int(*value),
            OperandKind::Float(value) => Value::Float(*value),
            OperandKind::Text(value) => Value::Text(value.clone()),
            OperandKind::Function(name) => {
                self.function(name, &[], None, dot, operand.span.clone())?
            }
        };
        operand.fields.iter().try_fold(start, |value, name| field(&value, name, operand))
    }
}

fn field(value: &Value, name: &str, operand: &Operand) -> Result<Value, Trouble> {
    match value {
        Value::Map(map) | Value::Env(map) => Ok(map.get(name).cloned().unwrap_or(Value::Missing)),
        Value::Missing => Ok(Value::Missing),
        Value::Root(map) => map.get(name).cloned().ok_or_else(|| {
            Trouble::new(
                operand.span.clone(),
                format!("there is no field `{name}`"),
                "the data object has the one field `.Env`",
            )
        }),
        other => Err(Trouble::new(
            operand.span.clone(),
            format!("{} has no field `{name}`", other.kind()),
            "inside `range` and `with` the dot is the element; `$` is the data object",
        )),
    }
}
