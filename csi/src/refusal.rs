//! The gRPC code for each refusal, as the specification's tables of errors have them.

use ashlar_api_client::ApiError;
use tonic::{Code, Status};

/// What a call of the conductor that did not succeed means for the caller.
pub(crate) fn of_api(error: ApiError) -> Status {
    let code = match &error {
        ApiError::Refused(problem) => of_problem(&problem.code, problem.status),
        ApiError::Unreachable { .. } | ApiError::NoAnswer { .. } => Code::Unavailable,
        ApiError::Address { .. }
        | ApiError::NoTrust { .. }
        | ApiError::Tls(_)
        | ApiError::Strange { .. } => Code::Internal,
    };
    Status::new(code, error.to_string())
}

/// The same for a call that makes what was not there a moment ago: if it is there now, an earlier call that was
/// given up, or its driver killed, has made it since. Whoever asks again finds it.
pub(crate) fn of_making(error: ApiError) -> Status {
    let code = error.problem().map(|problem| problem.code.as_str());
    if matches!(code, Some("volume-exists" | "snapshot-exists")) {
        return Status::aborted(format!(
            "an earlier call has made it just now: try again ({error})"
        ));
    }
    of_api(error)
}

/// The code for a problem of `docs/api.md`.
fn of_problem(code: &str, http_status: u16) -> Code {
    match code {
        "volume-exists" | "snapshot-exists" | "target-exists" | "volume-published-otherwise" => {
            Code::AlreadyExists
        }
        "client-denied" => Code::PermissionDenied,
        // Something of the volume is under way: the caller tries again.
        "volume-not-ready" | "group-in-progress" => Code::Aborted,
        "group-not-held" | "group-failed" | "volume-unfenced" => Code::Unavailable,
        "too-many-snapshots" | "layers-exhausted" => Code::ResourceExhausted,
        _ => match http_status {
            400 | 422 => Code::InvalidArgument,
            404 => Code::NotFound,
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            409 | 412 => Code::FailedPrecondition,
            429 | 503 => Code::Unavailable,
            507 => Code::ResourceExhausted,
            _ => Code::Internal,
        },
    }
}

/// There is no such volume.
pub(crate) fn no_volume(handle: &str) -> Status {
    Status::not_found(format!("there is no volume `{handle}`"))
}

/// There is no such snapshot.
pub(crate) fn no_snapshot(handle: &str) -> Status {
    Status::not_found(format!("there is no snapshot `{handle}`"))
}

/// A field that must be there is not.
pub(crate) fn missing(field: &str) -> Status {
    Status::invalid_argument(format!("`{field}` is missing"))
}

/// The text of a field that must be there.
pub(crate) fn required<'a>(field: &str, text: &'a str) -> Result<&'a str, Status> {
    if text.is_empty() {
        Err(missing(field))
    } else {
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_have_the_codes_of_the_specification() {
        let cases = [
            ("volume-exists", 409, Code::AlreadyExists),
            ("volume-not-found", 404, Code::NotFound),
            ("volume-not-ready", 409, Code::Aborted),
            ("volume-attached", 409, Code::FailedPrecondition),
            ("volume-published", 409, Code::FailedPrecondition),
            ("volume-published-otherwise", 409, Code::AlreadyExists),
            ("volume-has-snapshots", 409, Code::FailedPrecondition),
            ("too-many-snapshots", 409, Code::ResourceExhausted),
            ("no-placement", 507, Code::ResourceExhausted),
            ("invalid-request", 422, Code::InvalidArgument),
            ("timed-out", 503, Code::Unavailable),
            ("internal", 500, Code::Internal),
        ];
        for (problem, status, code) in cases {
            assert_eq!(of_problem(problem, status), code, "{problem}");
        }
    }
}
