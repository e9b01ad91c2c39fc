//! The one error type of Foreword.
//!
//! An [`Error`] is opaque: a [`Kind`] that programs branch on, a message for people (what was wrong, where, and what to
//! do), and an optional cause. The kind's row in [`Kind::row`] is the only place that knows its JavaScript code, HTTP
//! status and exit code.

use std::fmt;
use std::sync::Arc;

/// `std::result::Result` with Foreword's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A model file is damaged, truncated, or not a GGUF file.
    BadFile,
    /// The file is sound, but uses something that Foreword does not implement.
    Unsupported,
    /// A download failed: no such file, refused, offline, checksum mismatch.
    Download,
    /// Local storage failed: disk full, quota exceeded, no permission.
    Storage,
    /// The caller asked for something that makes no sense.
    InvalidRequest,
    /// The prompt and the wished answer do not fit into the context.
    PromptTooLong,
    /// Memory for weights, cache or work buffers could not be had.
    OutOfMemory,
    /// The GPU or its driver went away.
    DeviceLost,
    /// The GPU refused a command: a fault of Foreword's or of the driver's. The device is there, but not to be trusted.
    DeviceFault,
    /// As many requests are under way as may be; a later one is taken.
    Busy,
    /// The caller cancelled.
    Cancelled,
}

/// How a [`Kind`] looks from outside the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindRow {
    /// `code` of the JavaScript `ForewordError` and of OpenAI-shaped error bodies.
    pub code: &'static str,
    /// HTTP status.
    pub http: u16,
    /// Exit code of the command line.
    pub exit: u8,
}

impl Kind {
    /// Every kind, in the order of the enum.
    pub const ALL: [Kind; 11] = [
        Kind::BadFile,
        Kind::Unsupported,
        Kind::Download,
        Kind::Storage,
        Kind::InvalidRequest,
        Kind::PromptTooLong,
        Kind::OutOfMemory,
        Kind::DeviceLost,
        Kind::DeviceFault,
        Kind::Busy,
        Kind::Cancelled,
    ];

    /// The code, status and exit code of this kind.
    pub const fn row(self) -> KindRow {
        let (code, http, exit) = match self {
            Kind::BadFile => ("bad_file", 422, 3),
            Kind::Unsupported => ("unsupported", 501, 4),
            Kind::Download => ("download_failed", 502, 5),
            Kind::Storage => ("storage_failed", 507, 6),
            Kind::InvalidRequest => ("invalid_request", 400, 2),
            Kind::PromptTooLong => ("context_length_exceeded", 400, 7),
            Kind::OutOfMemory => ("out_of_memory", 507, 8),
            Kind::DeviceLost => ("device_lost", 503, 9),
            Kind::DeviceFault => ("device_fault", 500, 10),
            Kind::Busy => ("busy", 503, 11),
            Kind::Cancelled => ("cancelled", 499, 130),
        };
        KindRow { code, http, exit }
    }
}

/// Something went wrong; see [`Error::kind`] and the message. A clone shares the cause.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: Kind,
    message: String,
    field: Option<String>,
    cause: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` whose message says what was wrong, where, and what to do.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, message: message.into(), field: None, cause: None }))
    }

    /// Attaches the error that led to this one.
    pub fn caused_by(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into().into());
        self
    }

    /// Puts `context` (usually a file name or a tensor name) in front of the message.
    pub fn at(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// Names the field of a request that is wrong, as `messages[2].content`; the message should name it, too.
    pub fn in_field(mut self, field: impl Into<String>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    /// The field of a request that is wrong: `param` in error bodies.
    pub fn param(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// What sort of error this is.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.0.message)?;
        if let Some(cause) = &self.0.cause {
            write!(f, " ({cause})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.cause.as_deref().map(|c| c as _)
    }
}

/// Shorthand constructors, one a [`Kind`]; each takes the message.
macro_rules! constructors {
    ($($name:ident => $kind:ident),* $(,)?) => {
        impl Error { $(
            #[doc = concat!("An error of kind [`Kind::", stringify!($kind), "`].")]
            pub fn $name(message: impl Into<String>) -> Self {
                Error::new(Kind::$kind, message)
            }
        )* }
    };
}

constructors! {
    bad_file => BadFile,
    unsupported => Unsupported,
    download => Download,
    storage => Storage,
    invalid_request => InvalidRequest,
    prompt_too_long => PromptTooLong,
    out_of_memory => OutOfMemory,
    device_lost => DeviceLost,
    device_fault => DeviceFault,
    cancelled => Cancelled,
}

/// `vec.resize(len, value)`, which would abort where memory cannot be had. `what` names that memory.
///
/// # Errors
/// [`Kind::OutOfMemory`]; nothing has changed then.
pub(crate) fn resize<T: Clone>(vec: &mut Vec<T>, len: usize, value: T, what: &str) -> Result<()> {
    vec.try_reserve(len.saturating_sub(vec.len())).map_err(|e| {
        let bytes = len.saturating_mul(size_of::<T>());
        Error::out_of_memory(format!("no memory for {what} of {bytes} bytes; use a shorter context")).caused_by(e)
    })?;
    vec.resize(len, value);
    Ok(())
}
