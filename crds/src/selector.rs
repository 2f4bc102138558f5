//! Label selectors, as Kubernetes has them.
//!
//! An own type, for documentation and bounds; it reads and means the same as `metav1.LabelSelector`.

#![allow(unreachable_pub, reason = "the derive makes helper types as public as ours")]

use std::collections::BTreeMap;

use kube_core::Rule as Cel;
use kube_derive::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::patterns;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Selects by labels: all of `matchLabels` and all of `matchExpressions`. `{}` selects everything.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels with the values they must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "label_map")]
    pub match_labels: Labels,

    /// What else must hold of labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub match_expressions: Vec<LabelExpression>,
}

/// A requirement on one label.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(
    crates(kube_core = "::kube_core"),
    validation = Cel::new(
        "self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : !has(self.values) || size(self.values) == 0"
    )
    .message("`values` goes with In and NotIn, which need at least one; Exists and DoesNotExist have none")
    .field_path(".values")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelExpression {
    /// The label.
    #[schemars(length(min = 1, max = 317), regex(pattern = patterns::LABEL_KEY))]
    pub key: String,

    /// In and NotIn compare with `values`; Exists and DoesNotExist ask for the label alone.
    pub operator: LabelOperator,

    /// The values to compare with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63), regex(pattern = patterns::LABEL_VALUE)))]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelOperator {
    /// There, with one of the values.
    In,
    /// Not there, or with another value.
    NotIn,
    /// There.
    Exists,
    /// Not there.
    DoesNotExist,
}

/// Bounded, so that what rules cost stays bounded.
pub(crate) fn label_map(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": { "type": "string", "maxLength": 63, "pattern": patterns::LABEL_VALUE },
    })
}

impl LabelSelector {
    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether it selects an object with these labels.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|expression| expression.matches(labels))
    }

    /// Whether it asks for this value of a label, and so means the object on purpose (R10).
    #[must_use]
    pub fn names(&self, key: &str, value: &str) -> bool {
        self.match_labels.get(key).is_some_and(|wanted| wanted == value)
            || self.match_expressions.iter().any(|expression| {
                expression.key == key
                    && expression.operator == LabelOperator::In
                    && expression.values.iter().any(|wanted| wanted == value)
            })
    }
}

impl LabelExpression {
    /// Whether it holds. As in Kubernetes, `NotIn` holds without the label.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            LabelOperator::In => listed,
            LabelOperator::NotIn => !listed,
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    fn expression(key: &str, operator: LabelOperator, values: &[&str]) -> LabelExpression {
        LabelExpression { key: key.into(), operator, values: values.iter().map(|v| (*v).into()).collect() }
    }

    #[test]
    fn all_requirements_must_hold() {
        let selector = LabelSelector {
            match_labels: labels(&[("app", "runner")]),
            match_expressions: vec![expression("tier", LabelOperator::NotIn, &["test"])],
        };
        assert!(selector.matches(&labels(&[("app", "runner")])));
        assert!(selector.matches(&labels(&[("app", "runner"), ("tier", "prod"), ("x", "y")])));
        assert!(!selector.matches(&labels(&[("app", "runner"), ("tier", "test")])));
        assert!(!selector.matches(&labels(&[("tier", "prod")])));
        assert!(LabelSelector::default().matches(&labels(&[])));
    }

    #[test]
    fn each_operator() {
        let with = labels(&[("app", "a")]);
        let without = labels(&[]);
        let table = [
            (LabelOperator::In, &["a", "b"][..], true, false),
            (LabelOperator::In, &["b"], false, false),
            (LabelOperator::NotIn, &["a"], false, true),
            (LabelOperator::NotIn, &["b"], true, true),
            (LabelOperator::Exists, &[], true, false),
            (LabelOperator::DoesNotExist, &[], false, true),
        ];
        for (operator, values, there, absent) in table {
            let expression = expression("app", operator, values);
            assert_eq!(
                (expression.matches(&with), expression.matches(&without)),
                (there, absent),
                "{operator:?}"
            );
        }
    }

    #[test]
    fn naming_is_asking_for_the_value() {
        // R10
        let key = "kubernetes.io/metadata.name";
        let by_label = LabelSelector { match_labels: labels(&[(key, "kube-system")]), ..Default::default() };
        let by_list = LabelSelector {
            match_expressions: vec![expression(key, LabelOperator::In, &["a", "kube-system"])],
            ..Default::default()
        };
        let by_absence = LabelSelector {
            match_expressions: vec![expression(key, LabelOperator::NotIn, &["a"])],
            ..Default::default()
        };
        assert!(by_label.names(key, "kube-system") && by_list.names(key, "kube-system"));
        assert!(!by_absence.names(key, "kube-system") && !LabelSelector::default().names(key, "kube-system"));
    }
}
