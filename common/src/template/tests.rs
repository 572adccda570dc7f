use super::*;

fn render_with(source: &str, env: &[(&str, &str)]) -> Result<String, Diagnostic> {
    let env = env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let load = |path: &str| match path {
        "groups.toml" => Ok(concat!(
            "title = \"t\"\ncount = 3\nratio = 0.5\nversions = [\"v1\", \"v2\"]\n",
            "[[groups]]\nId = \"a\"\n[groups.build_args]\nX = \"1\"\n[[groups]]\nId = \"b\"\n",
        )
        .to_owned()),
        "bad.toml" => Ok("a = 1\nb =\n".to_owned()),
        _ => Err("no such file".to_owned()),
    };
    render(&SourceFile::new("c.toml", source), &env, &load)
}

fn ok(source: &str) -> String {
    render_with(source, &[("A", "a"), ("EMPTY", ""), ("LIST", "x,y,z"), ("N", "7")]).expect(source)
}

fn err(source: &str) -> String {
    render_with(source, &[("A", "a")]).expect_err(source).message
}

/// The table of edge behaviour, row by row.
#[test]
fn edges_are_those_of_go() {
    assert_eq!(ok("{{ .Env.MISSING }}"), "<no value>");
    assert_eq!(ok("{{ or .Env.MISSING \"-\" }}"), "-");
    assert!(err("{{ split .Env.MISSING }}").contains("invalid value"));
    assert_eq!(ok("{{ len (split .Env.EMPTY) }}"), "1");
    assert_eq!(ok("{{ eq .Env.MISSING \"a\" }}"), "false");
    assert_eq!(ok("{{ not .Env.MISSING }}"), "true");
    assert_eq!(ok("{{ with .Env.MISSING }}yes{{ else }}no{{ end }}"), "no");
    assert!(err("{{ eq 1 \"1\" }}").contains("incompatible types"));
    assert_eq!(ok("{{ $r := load_resource \"groups.toml\" }}{{ eq $r.count 3 }}"), "true");
    assert!(err("{{ .Other }}").contains("no field `Other`"));
    assert_eq!(ok("{{ (load_resource \"groups.toml\").missing }}"), "<no value>");
    assert_eq!(ok("{{ and 1 \"b\" }} {{ and 0 \"b\" }} {{ or \"\" 0 \"c\" \"d\" }}"), "b 0 c");
    assert!(err("{{ atoi \"x\" }}").contains("`x` is not a whole number"));
    assert_eq!(
        ok("{{ load_resource \"groups.toml\" }}"),
        "map[count:3 groups:[map[Id:a build_args:map[X:1]] map[Id:b]] ratio:0.5 title:t versions:[v1 v2]]"
    );
    assert!(err("{{ break }}").contains("outside of `range`"));
    assert!(err("{{ if true }}{{ continue }}{{ end }}").contains("outside of `range`"));
    assert_eq!(
        ok("{{ range split .Env.LIST }}{{ if eq . \"y\" }}{{ break }}{{ end }}{{ . }}{{ end }}"),
        "x"
    );
    assert_eq!(
        ok("{{ range split .Env.LIST }}{{ if eq . \"y\" }}{{ continue }}{{ end }}{{ . }}{{ end }}"),
        "xz"
    );
}

#[test]
fn control_structures_nest_and_scope_their_variables() {
    assert_eq!(ok("{{ if false }}1{{ else if .Env.A }}2{{ else }}3{{ end }}"), "2");
    assert_eq!(ok("{{ if false }}1{{ else if false }}2{{ else }}3{{ end }}"), "3");
    assert_eq!(
        ok("{{ range $i, $v := split .Env.LIST }}{{ $i }}={{ $v }} {{ end }}"),
        "0=x 1=y 2=z "
    );
    assert_eq!(ok("{{ range $v := split .Env.LIST }}{{ $v }}{{ $.Env.A }}{{ end }}"), "xayaza");
    assert_eq!(ok("{{ range .Env.MISSING }}1{{ else }}none{{ end }}"), "none");
    assert_eq!(
        ok("{{ range $k, $v := .Env }}{{ $k }}:{{ $v }};{{ end }}"),
        "A:a;EMPTY:;LIST:x,y,z;N:7;"
    );
    assert_eq!(ok("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ end }}{{ $x }}"), "1");
    assert_eq!(ok("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ end }}{{ $x }}"), "2");
    assert_eq!(ok("{{ with $x := .Env.A }}{{ $x }}{{ . }}{{ end }}"), "aa");
    assert!(err("{{ if true }}{{ $x := 1 }}{{ end }}{{ $x }}").contains("`$x` is not defined"));
    assert!(err("{{ range 3 }}{{ end }}").contains("cannot range over"));
}

#[test]
fn templates_call_each_other() {
    assert_eq!(
        ok("{{ define \"t\" }}<{{ . }}>{{ end }}{{ template \"t\" .Env.A }}{{ template \"t\" 2 }}"),
        "<a><2>"
    );
    assert_eq!(ok("{{ block \"t\" .Env.A }}[{{ . }}{{ $ }}]{{ end }}"), "[aa]");
    let source = "{{ define \"g\" }}{{ .Id }}:{{ .Env.A }} {{ end }}\
        {{ range (load_resource \"groups.toml\").groups }}{{ template \"g\" (withEnv .) }}{{ end }}";
    assert_eq!(ok(source), "a:a b:a ");
    assert!(err("{{ template \"nope\" }}").contains("`nope` is not defined"));
    assert!(
        err("{{ define \"t\" }}{{ template \"t\" }}{{ end }}{{ template \"t\" }}")
            .contains("without end")
    );
    assert!(
        err("{{ if true }}{{ define \"x\" }}{{ end }}{{ end }}")
            .contains("inside of another block")
    );
}

#[test]
fn white_space_comments_and_literals() {
    assert_eq!(ok("a \n {{- 1 -}} \n b"), "a1b");
    assert_eq!(ok("a{{/* no */}}b {{- /* no */ -}} c"), "abc");
    assert_eq!(
        ok("{{ -3 }} {{ 0x10 }} {{ 1_000 }} {{ 1.50 }} {{ 'a' }} {{ 1e3 }}"),
        "-3 16 1000 1.5 97 1000"
    );
    assert_eq!(ok(r#"{{ "a\t\"b\u00e9" }}{{ `r\n` }}"#), "a\t\"bé".to_owned() + r"r\n");
    assert_eq!(ok("{{ true }} {{ 1e21 }} {{ 0.00001 }}"), "true 1e+21 1e-05");
    assert_eq!(ok("{{ print\n 1\n 2 }}"), "1 2");
    assert!(err("{{/* open }}").contains("comment is not closed"));
    assert!(err("{{ \"open }}").contains("text is not closed"));
    assert!(err("a {{ .Env.A ").contains("action is not closed"));
}

#[test]
fn functions_and_pipelines() {
    assert_eq!(ok("{{ .Env.N | atoi | printf \"%03d|%v\" 1 }}"), "001|7");
    assert_eq!(
        ok("{{ index (split .Env.LIST) 1 }} {{ index .Env \"A\" }}[{{ index .Env \"NO\" }}]"),
        "y a[]"
    );
    assert_eq!(ok("{{ (index (load_resource \"groups.toml\").groups 0).build_args.X }}"), "1");
    assert_eq!(ok("{{ len .Env.LIST }} {{ len (load_resource \"groups.toml\").groups }}"), "5 2");
    assert_eq!(
        ok("{{ ne 1 2 }} {{ lt 1 2 }} {{ le 2 2 }} {{ gt \"b\" \"a\" }} {{ ge 1.0 2.0 }}"),
        "true true true true false"
    );
    assert_eq!(ok("{{ eq \"c\" \"a\" \"b\" \"c\" }}"), "true");
    assert_eq!(ok("{{ print 1 2 \"a\" 3 }} {{ println \"x\" 1 }}"), "1 2a3 x 1\n");
    assert_eq!(ok("{{ print .Env.MISSING }}"), "<nil>");
    assert_eq!(ok("{{ toml (pick (load_resource \"groups.toml\") \"count\") }}"), "count = 3\n");
    assert_eq!(ok("{{ slice .Env.LIST 2 3 }}{{ len (slice (split .Env.LIST) 1) }}"), "y2");
    assert_eq!(
        ok("{{ printf \"%s %q %5.1f|%-4d|%x %t %d\" \"a\" \"b\" 1.25 3 255 true \"z\" }}"),
        "a \"b\"   1.2|3   |ff true %!d(string=z)"
    );
    assert!(err("{{ nosuch 1 }}").contains("function `nosuch` is not defined"));
    assert!(err("{{ index (split \"a\") 3 }}").contains("out of range"));
    assert!(err("{{ load_resource \"no.toml\" }}").contains("no such file"));
    assert!(err("{{ load_resource \"bad.toml\" }}").contains("line 2"));
    assert!(err("{{ .Env.A 1 }}").contains("only a function"));
    assert!(err("{{ 1 | 2 }}").contains("only a function"));
    assert!(err("{{ lt true false }}").contains("incompatible"));
    assert!(err("{{ (1 }}").contains("parenthesis"));
    assert!(err("{{ end }}").contains("without a block"));
    assert!(err("{{ if true }}").contains("not closed"));
}

#[test]
fn trouble_names_line_text_and_fix() {
    let found = render_with("a\nb {{ atoi \"x1\" }}\n", &[]).expect_err("`x1` is no number");
    assert_eq!(found.to_string(), "c.toml:2: template: `x1` is not a whole number");
    let span = found.span.clone().expect("trouble has a place");
    assert_eq!(&found.source.text[span], "atoi \"x1\"");
    assert!(found.help.contains("digits"));
    let found = render_with("{{ splitt .Env.A }}", &[]).expect_err("no such function");
    assert_eq!(found.help, "did you mean `split`?");
}

proptest::proptest! {
    #[test]
    fn whatever_stands_in_a_file_ends_with_text_or_a_place_in_it(source in "[a{}.|()$\"` =:é\\-/*0-9]{0,40}") {
        if let Err(found) = render_with(&source, &[]) {
            let span = found.span.expect("trouble has a place");
            proptest::prop_assert!(span.end <= source.len());
            proptest::prop_assert!(span.start <= span.end);
        }
    }

    #[test]
    fn text_without_actions_is_left_alone(source in "[^{]{0,80}") {
        proptest::prop_assert_eq!(render_with(&source, &[]).expect("no action"), source);
    }
}
