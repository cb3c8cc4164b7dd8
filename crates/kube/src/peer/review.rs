//! Whether a `Peer` may come into the cluster: the answer of an admission webhook
//! (<https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>). Pure.

use kube::core::DynamicObject;
use serde::Deserialize;
use serde_json::{Value, json};
use wireloom_model::Severity;

use super::translate;

/// The version of the question that is answered, as Kilo's webhook does.
const API_VERSION: &str = "admission.k8s.io/v1";

/// An answer to an API server.
#[derive(Debug, Clone, PartialEq)]
pub struct Review {
    /// The text of the answer's body.
    pub body: String,
    /// What was to be done, as the question says it: `CREATE`, `UPDATE`, `DELETE`.
    pub operation: String,
    /// Whether it may be.
    pub is_allowed: bool,
}

/// A body that is no question.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReviewError {
    /// It is no JSON, or lacks what every question has.
    #[error("the body is no AdmissionReview: {0}")]
    Body(#[from] serde_json::Error),
    /// It is one of another version.
    #[error(
        "{kind} of {api_version:?} is not answered; send an AdmissionReview of admission.k8s.io/v1"
    )]
    Version {
        /// What it says it is.
        kind: String,
        /// The version that it says it has.
        api_version: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Question {
    api_version: String,
    kind: String,
    request: Request,
}

#[derive(Deserialize)]
struct Request {
    uid: String,
    operation: String,
    #[serde(default)]
    object: Value,
}

/// Answers a question. What agents would skip is refused, with every reason; what they would read otherwise than it is
/// written gets a warning. An object that goes is nobody's business.
pub fn review(body: &[u8]) -> Result<Review, ReviewError> {
    let Question { api_version, kind, request } = serde_json::from_slice(body)?;
    if (api_version.as_str(), kind.as_str()) != (API_VERSION, "AdmissionReview") {
        return Err(ReviewError::Version { kind, api_version });
    }
    let Request { uid, operation, object } = request;
    let (mut refusals, mut warnings) = (Vec::new(), Vec::new());
    if operation != "DELETE" {
        let object: DynamicObject = serde_json::from_value(object)?;
        for problem in translate(&object).1 {
            match problem.severity {
                Severity::Error => refusals.push(problem.message),
                Severity::Warning => warnings.push(problem.message),
            }
        }
    }
    let is_allowed = refusals.is_empty();
    let mut response = json!({ "uid": uid, "allowed": is_allowed });
    if !is_allowed {
        response["status"] = json!({ "message": refusals.join("; ") });
    }
    if !warnings.is_empty() {
        response["warnings"] = json!(warnings);
    }
    let answer = json!({ "apiVersion": API_VERSION, "kind": kind, "response": response });
    Ok(Review { body: answer.to_string(), operation, is_allowed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(operation: &str, spec: Value) -> Value {
        let object = json!({
            "apiVersion": "kilo.squat.ai/v1alpha1",
            "kind": "Peer",
            "metadata": { "name": "laptop" },
            "spec": spec,
        });
        let object = if operation == "DELETE" { Value::Null } else { object };
        let question = json!({
            "apiVersion": API_VERSION,
            "kind": "AdmissionReview",
            "request": { "uid": "7-e", "operation": operation, "object": object },
        });
        let review = review(question.to_string().as_bytes()).unwrap();
        let answer: Value = serde_json::from_str(&review.body).unwrap();
        assert_eq!(answer["response"]["allowed"], review.is_allowed);
        assert_eq!(answer["response"]["uid"], "7-e");
        assert_eq!(answer["kind"], "AdmissionReview");
        assert_eq!(review.operation, operation);
        answer["response"].clone()
    }

    fn good() -> Value {
        json!({
            "allowedIPs": ["10.5.0.1/32"],
            "publicKey": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=",
            "persistentKeepalive": 10,
        })
    }

    #[test]
    fn a_good_peer_comes_in_and_any_may_go() {
        for operation in ["CREATE", "UPDATE"] {
            let response = ask(operation, good());
            assert_eq!(response["allowed"], true, "{response}");
            assert!(response.get("warnings").is_none() && response.get("status").is_none());
        }
        assert_eq!(ask("DELETE", Value::Null)["allowed"], true);
    }

    #[test]
    fn a_bad_peer_is_refused_with_every_reason() {
        let mut spec = good();
        spec["publicKey"] = json!("foo");
        spec["allowedIPs"] = json!(["10.5.0.1", "10.6.0.0/16"]);
        spec["endpoint"] = json!({ "dnsOrIP": { "ip": "300.0.0.1" }, "port": 70000 });
        spec["persistentKeepalive"] = json!(-1);
        let response = ask("CREATE", spec);
        assert_eq!(response["allowed"], false);
        let message = response["status"]["message"].as_str().unwrap();
        for said in ["foo", "10.5.0.1", "endpoint", "persistentKeepalive"] {
            assert!(message.contains(said), "{said}: {message}");
        }
    }

    #[test]
    fn what_is_meant_otherwise_than_written_is_a_warning() {
        let mut spec = good();
        spec["allowedIPs"] = json!(["10.5.0.1/24"]);
        let response = ask("CREATE", spec);
        assert_eq!(response["allowed"], true);
        assert!(response["warnings"][0].as_str().unwrap().contains("10.5.0.0/24"), "{response}");
    }

    #[test]
    fn no_peer_at_all_and_empty_lists_are_refused() {
        for spec in [json!(null), json!(7), json!({}), json!({ "allowedIPs": [], "publicKey": "" })]
        {
            assert_eq!(ask("CREATE", spec.clone())["allowed"], false, "{spec}");
        }
    }

    #[test]
    fn other_bodies_are_errors() {
        for bad in [
            "",
            "{}",
            "[]",
            "{\"kind\":\"AdmissionReview\",\"apiVersion\":\"admission.k8s.io/v1\"}",
        ] {
            assert!(matches!(review(bad.as_bytes()), Err(ReviewError::Body(_))), "{bad}");
        }
        let old = json!({
            "apiVersion": "admission.k8s.io/v1beta1",
            "kind": "AdmissionReview",
            "request": { "uid": "1", "operation": "CREATE" },
        });
        let error = review(old.to_string().as_bytes()).unwrap_err();
        assert!(error.to_string().contains("v1beta1"), "{error}");
    }
}
