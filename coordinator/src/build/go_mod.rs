//! Writes `replace` directives into a `go.mod`.

/// Adds replacements, each a module and what stands behind `=>`. One that is there for the same module goes.
pub(super) fn replace(text: &str, replaces: &[(String, String)]) -> String {
    let mut kept = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let replaced = match words.as_slice() {
            ["replace", "(", ..] => {
                in_block = true;
                None
            }
            [")", ..] => {
                in_block = false;
                None
            }
            ["replace", module, ..] => Some(*module),
            [module, rest @ ..] if in_block && rest.contains(&"=>") => Some(*module),
            _ => None,
        };
        let again = replaced.is_some_and(|module| replaces.iter().any(|one| one.0 == module));
        if !again {
            kept.push(line.to_owned());
        }
    }
    kept.push(String::new());
    kept.extend(replaces.iter().map(|(module, target)| format!("replace {module} => {target}")));
    kept.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_replaced_once() {
        let text = "module plan\n\ngo 1.19\n\nrequire h/m v1.0.0\n\nreplace h/m => ../m\n\n\
                    replace (\n\th/n v1.2.0 => h/o v1.0.0\n\th/p => ../p\n)\n";
        let replaces = [
            ("h/m".to_owned(), "h/fork v2.0.0".to_owned()),
            ("h/n".to_owned(), "../replaced/1".to_owned()),
        ];
        insta::assert_snapshot!(replace(text, &replaces), @"
        module plan

        go 1.19

        require h/m v1.0.0


        replace (
        	h/p => ../p
        )

        replace h/m => h/fork v2.0.0
        replace h/n => ../replaced/1
        ");
    }
}
