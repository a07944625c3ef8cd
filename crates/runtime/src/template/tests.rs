//! Templates: what is read, what is refused, what a blank can do.

use serde_json::json;

use super::*;

fn template(parameters: &Value, title: &str) -> Value {
    json!({"title": "T", "parameters": parameters, "goal": "G",
        "tasks": [{"id": "a", "title": title}, {"id": "b", "title": "B", "depends_on": ["a"]}]})
}

fn typed(pairs: &[(&str, &str)]) -> Vec<(String, Given)> {
    pairs.iter().map(|(name, text)| ((*name).to_owned(), Given::Typed((*text).to_owned()))).collect()
}

fn messages(found: Vec<Problem>) -> String {
    found.into_iter().map(|it| it.message).collect::<Vec<_>>().join("\n")
}

#[test]
fn shipped_templates_are_valid_and_name_known_roles() {
    for (name, text) in SHIPPED {
        let value: Value = serde_saphyr::from_str(text).unwrap();
        let template = Template::read(&value).unwrap_or_else(|found| panic!("{name}: {}", messages(found)));
        assert!(!template.description.is_empty(), "{name}");
        for parameter in &template.parameters {
            assert!(!parameter.description.is_empty(), "{name}: {}", parameter.name);
        }
        let given = template.parameters.iter().filter(|it| it.is_required());
        let given: Vec<_> = given.map(|it| (it.name.clone(), Given::Value(it.sample()))).collect();
        let document = template.apply(&given).unwrap_or_else(|found| panic!("{name}: {}", messages(found)));
        assert!(document.tasks.len() >= 2, "{name}");
        for task in &document.tasks {
            let role = task.role.as_deref().unwrap();
            assert!(["coder", "tester", "researcher", "writer"].contains(&role), "{name}: {role}");
            assert!(!task.success_criteria.is_empty(), "{name}: {}", task.id);
        }
    }
}

#[test]
fn values_are_typed_and_checked_all_at_once() {
    let parameters = json!({
        "who": {"type": "string", "required": true, "description": "Who asks", "min": 2, "pattern": "[A-Z].*"},
        "count": {"type": "integer", "default": 3, "min": 1, "max": 5},
        "share": {"type": "number", "default": 0.5},
        "fast": {"type": "boolean", "default": false},
        "form": {"type": "enum", "values": ["short", "long"], "default": "short"},
        "file": {"type": "path", "default": "src/lib.rs"},
        "names": {"type": "list", "default": ["x"], "max": 2},
    });
    let title =
        "{{ who }} {{ count }} {{ share }} {% if fast %}fast{% endif %} {{ form }} {{ file }} {{ names | join('+') }}";
    let template = Template::read(&template(&parameters, title)).unwrap();
    let given = typed(&[("who", "Ada"), ("count", "5"), ("fast", "yes"), ("names", "p, q"), ("file", "a/b.md")]);
    assert_eq!(template.apply(&given).unwrap().tasks[0].title, "Ada 5 0.5 fast short a/b.md p+q");
    let wrong = typed(&[
        ("count", "9"),
        ("share", "inf"),
        ("fast", "maybe"),
        ("form", "wide"),
        ("file", "../x"),
        ("names", "[1]"),
        ("other", "1"),
        ("count", "2"),
    ]);
    let found = messages(template.apply(&wrong).unwrap_err());
    for wanted in [
        "`count`: 9 is not allowed: at least 1 and at most 5",
        "`share`: `\"inf\"` is not allowed: a number",
        "`fast`: `\"maybe\"` is not allowed: true or false",
        "`form`: `\"wide\"` is not allowed: one of short, long",
        "`file`: `\"../x\"` is not allowed: a relative path",
        "`names`: `[1]` is not allowed: a list of texts",
        "`other` is not a parameter",
        "`who` must be given: Who asks",
    ] {
        assert!(found.contains(wanted), "{wanted}: {found}");
    }
    for (who, wanted) in [("A", "1 characters is not allowed: at least 2"), ("ada", "does not match the pattern")] {
        assert!(messages(template.apply(&typed(&[("who", who)])).unwrap_err()).contains(wanted), "{who}");
    }
    for path in ["/etc/passwd", "a/../../b", "", "a\nb"] {
        assert!(template.apply(&typed(&[("who", "Ada"), ("file", path)])).is_err(), "{path:?}");
    }
}

#[test]
fn what_fills_a_blank_stays_within_it() {
    let template =
        Template::read(&template(&json!({"who": {"type": "string", "required": true}}), "For {{ who }}")).unwrap();
    for hostile in ["{{ 1 + 1 }}", "x\", \"role\": \"y", "{% for i in range(9) %}a{% endfor %}", "]\n- id: z"] {
        let document = template.apply(&typed(&[("who", hostile)])).unwrap();
        assert_eq!(document.tasks[0].title, format!("For {hostile}"));
        assert_eq!(document.tasks.len(), 2);
    }
}

#[test]
fn numbers_and_lists_keep_their_type_where_they_belong() {
    let mut value = template(
        &json!({"time": {"type": "number", "default": 1.5}, "first": {"type": "integer", "default": 8},
            "must": {"type": "list", "default": ["it runs", "it is short"]}}),
        "A",
    );
    value["tasks"][0]["duration"] = "{{ time }}".into();
    value["tasks"][0]["priority"] = "{{first}}".into();
    value["tasks"][0]["success_criteria"] = "{{ must }}".into();
    let document = Template::read(&value).unwrap().apply(&[]).unwrap();
    let task = &document.tasks[0];
    assert_eq!((task.duration, task.priority.map(crewline_types::Priority::get)), (Some(1.5), Some(8)));
    assert_eq!(task.success_criteria.len(), 2);
}

#[test]
fn a_broken_template_is_refused_with_all_its_problems() {
    let parameters = json!({
        "Bad": {"type": "string"},
        "both": {"type": "string", "required": true, "default": "x"},
        "kind": {"type": "text"},
        "word": {"type": "enum"},
        "range": {"type": "integer", "min": 5, "max": 1},
        "pattern": {"type": "string", "pattern": "("},
        "default": {"type": "integer", "default": "x"},
        "idle": {"type": "string", "default": "x"},
    });
    let found = messages(Template::read(&template(&parameters, "{{ nobody }} {{ open")).unwrap_err());
    for wanted in [
        "`parameters.Bad`: a name begins",
        "`parameters.both`: it is `required` and has a `default`",
        "`parameters.kind`: unknown variant `text`",
        "`parameters.word`: `values` belong",
        "`parameters.range`: `min` is above `max`",
        "`parameters.pattern`: `pattern`:",
        "`parameters.default`: `default`: `\"x\"` is not allowed: a whole number",
        "`parameters.idle` fills no blank",
        "`tasks[0].title`:",
    ] {
        assert!(found.contains(wanted), "{wanted}: {found}");
    }
    let found = messages(Template::read(&template(&json!({}), "{{ nobody }}")).unwrap_err());
    assert_eq!(found, "`tasks[0].title`: there is no parameter `nobody`");
    // Not given and without a default is an error where it is used.
    let optional =
        Template::read(&template(&json!({"who": {"type": "string"}}), "A{% if who %} {{ who }}{% endif %}")).unwrap();
    assert_eq!(optional.apply(&[]).unwrap().tasks[0].title, "A");
    let strict = Template::read(&template(&json!({"who": {"type": "string"}}), "A {{ who }}")).unwrap();
    assert!(messages(strict.apply(&[]).unwrap_err()).contains("`tasks[0].title`: undefined value"));
    // The plan itself is checked, too.
    let mut circle = template(&json!({}), "A");
    circle["tasks"][0]["depends_on"] = json!(["b"]);
    assert!(messages(Template::read(&circle).unwrap_err()).contains("circle"));
    assert!(messages(Template::read(&json!({"title": "T"})).unwrap_err()).contains("missing field `tasks`"));
}
