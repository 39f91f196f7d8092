//! What the reactors of a process count, as families: all reactors together, but for how busy each is.

use ashlar_reactor::Remote;
use ashlar_reactor::meters::{Connections, Operation, Reading, Stage};

use super::exposition::Family;

/// Of these reactors, with their names.
pub fn families(reactors: &[(String, Remote)]) -> Vec<Family> {
    if reactors.is_empty() {
        return Vec::new();
    }
    let mut families = of_stages(reactors);
    families.extend(of_connections(reactors));
    families.extend(of_loops(reactors));
    families
}

fn of_stages(reactors: &[(String, Remote)]) -> Vec<Family> {
    let mut ended = Family::counter(
        "ashlar_io_operations_total",
        "Requests that have ended, by stage and operation.",
    );
    let mut failed = Family::counter(
        "ashlar_io_errors_total",
        "Requests that have failed, by stage and operation.",
    );
    let mut bytes = Family::counter(
        "ashlar_io_bytes_total",
        "Bytes of user data that requests were about, by stage and operation.",
    );
    let mut in_flight = Family::gauge(
        "ashlar_io_in_flight",
        "Requests that have begun and not ended, by stage and operation.",
    );
    let mut times = Family::histogram(
        "ashlar_io_duration_seconds",
        "How long requests took at a stage and all behind it; one in 16 is timed, at the link all.",
    );
    for stage in Stage::ALL {
        for operation in Operation::ALL {
            let mut sum = Reading::default();
            for (_, reactor) in reactors {
                sum.merge(&reactor.meters().read(stage, operation));
            }
            if sum.ended == 0 && sum.in_flight == 0 {
                continue;
            }
            let labels = [("stage", stage.name()), ("operation", operation.name())];
            ended.push(&labels, sum.ended);
            failed.push(&labels, sum.failed);
            bytes.push(&labels, sum.bytes);
            in_flight.push(&labels, sum.in_flight);
            times.push_times(&labels, &sum.times);
        }
    }
    vec![ended, failed, bytes, in_flight, times]
}

fn of_connections(reactors: &[(String, Remote)]) -> Vec<Family> {
    let mut sum = Connections::default();
    for (_, reactor) in reactors {
        let more = reactor.meters().connections();
        sum.accepted += more.accepted;
        sum.open += more.open;
        sum.refused += more.refused;
    }
    let mut open = Family::gauge(
        "ashlar_connections",
        "Connections that are open: of clients at a front end, of owners at a store.",
    );
    open.push(&[], sum.open);
    let mut accepted = Family::counter(
        "ashlar_connections_accepted_total",
        "Connections that were accepted.",
    );
    accepted.push(&[], sum.accepted);
    let mut refused = Family::counter(
        "ashlar_connections_refused_total",
        "Connections that were refused because there were too many.",
    );
    refused.push(&[], sum.refused);
    vec![open, accepted, refused]
}

fn of_loops(reactors: &[(String, Remote)]) -> Vec<Family> {
    let mut rounds = Family::counter(
        "ashlar_reactor_rounds_total",
        "Rounds of a reactor's loop: work was done, or waited for.",
    );
    let mut rest = Family::counter(
        "ashlar_reactor_idle_seconds_total",
        "Time in which a reactor had nothing to do: it polled or slept.",
    );
    for (name, reactor) in reactors {
        let labels = [("reactor", name.as_str())];
        rounds.push(&labels, reactor.meters().rounds());
        rest.push(&labels, reactor.meters().rest().as_secs_f64());
    }
    vec![rounds, rest]
}
