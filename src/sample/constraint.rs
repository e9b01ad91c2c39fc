//! What an answer has to look like, and who makes a rule of it: the core knows no grammars.

use super::Rule;
use crate::error::Result;
use crate::send::{MaybeSend, MaybeSync};
use serde::Serialize;
use serde_json::Value;

/// What an answer has to look like.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Constraint {
    /// JSON that fits a schema.
    Schema {
        /// The schema.
        schema: Value,
        /// What no grammar can promise is an error; otherwise it is passed over.
        strict: bool,
    },
    /// A grammar in Lark's notation.
    Lark(String),
    /// A regular expression that the whole answer matches.
    Regex(String),
}

/// Makes rules of constraints for one model. The crate `foreword-constrain` of this repository has one.
pub trait Compiler: MaybeSend + MaybeSync {
    /// A rule for an answer that begins.
    ///
    /// # Errors
    /// [`crate::Kind::InvalidRequest`] that says what is wrong with the constraint, and where.
    fn compile(&self, constraint: &Constraint) -> Result<Box<dyn Rule>>;
}
