//! Boxes as a graph in Graphviz's language.

use super::BoxStatus;

/// A cluster for each box, a node for each descriptor, an edge for each dependency.
pub(super) fn graph(boxes: &[BoxStatus]) -> String {
    let mut text = String::from("digraph boxes {\n  rankdir = LR;\n  node [shape = box];\n");
    for (number, one) in boxes.iter().enumerate() {
        let title = quoted(&format!("{} ({})", one.name, one.state));
        text += &format!("  subgraph cluster_{number} {{\n    label = {title};\n");
        let node = |name: &str| quoted(&format!("{}/{name}", one.name));
        for fd in &one.fds {
            let label = quoted(&format!("{}\n{}", fd.name, fd.kind));
            text += &format!("    {} [label = {label}];\n", node(&fd.name));
        }
        for fd in &one.fds {
            for needed in &fd.needs {
                text += &format!("    {} -> {};\n", node(&fd.name), node(needed));
            }
        }
        text += "  }\n";
    }
    text + "}\n"
}

/// A quoted string in Graphviz's syntax; line breaks are kept.
fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", text.replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::a_box;
    use super::*;

    #[test]
    fn a_box_is_a_cluster_and_a_need_an_edge() {
        let text = graph(&[a_box()]);
        let expected = [
            r#"    label = "vm\"0 (sealed)";"#,
            r#"    "vm\"0/iommufd" [label = "iommufd\nfdbox,iommufd-v1"];"#,
            r#"    "vm\"0/vfio0" -> "vm\"0/iommufd";"#,
        ];
        for line in expected {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in {text}"
            );
        }
        let count = |what| text.matches(what).count();
        assert_eq!(count("{"), count("}"));
    }

    #[test]
    fn no_boxes_are_an_empty_graph() {
        assert!(graph(&[]).ends_with("}\n"));
        assert!(!graph(&[]).contains("cluster"));
    }
}
