//! What an agent may.

use serde_json::{Value, json};

/// The rights that docs/annotations.md lists.
pub(crate) fn rights() -> String {
    let rule = |group: &str, resource: &str, verbs: &[&str]| json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs });
    let rules = [
        rule("", "nodes", &["get", "list", "watch", "patch"]),
        rule("kilo.squat.ai", "peers", &["list", "watch"]),
        rule("coordination.k8s.io", "leases", &["create", "delete", "patch", "list", "watch"]),
        rule("apps", "daemonsets", &["get", "list", "watch"]),
    ];
    let of_events = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": { "name": "agent", "namespace": "default" },
        "rules": [rule("events.k8s.io", "events", &["create", "patch"])],
    });
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": { "name": "agent" },
        "rules": rules,
    });
    let account = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": { "name": "agent", "namespace": "kube-system" },
    });
    let binding = |kind: &str, metadata: Value| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": format!("{kind}Binding"),
            "metadata": metadata,
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "agent" },
            "subjects": [{ "kind": "ServiceAccount", "name": "agent", "namespace": "kube-system" }],
        })
    };
    let of_cluster = binding("ClusterRole", json!({ "name": "agent" }));
    let of_default = binding("Role", json!({ "name": "agent", "namespace": "default" }));
    let items = [role, of_events, account, of_cluster, of_default];
    json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}
