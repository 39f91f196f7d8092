//! Which conductor to ask: of several one leads, and the others say which.
//!
//! A call goes to the conductor that answered the last one. It is sent again, to another one,
//! - where it was surely not carried out: nobody listens, or the one that was asked does not lead;
//! - where no answer came, if it is one that may be carried out twice, or is carried out once however often
//!   it is sent (`once`): then it has little time at each.
//!
//! One that changes something is sent to a conductor that has just said that it leads: one that hangs is
//! passed over before it is trusted with it, and before anybody waits for what it never does.
//!
//! Who has one address alone is sent on, too, but waits for nobody, unless an answer was lost of what is
//! carried out once.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ashlar_proto::api::Problem;
use reqwest::header::{AUTHORIZATION, HeaderValue, LOCATION};
use reqwest::{Method, Request, RequestBuilder, Response, Url};
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{ANSWER_MAX, ApiError, once, root_cause};

/// How long one of several conductors may take for an answer that waits for nobody.
const ATTEMPT_MAX: Duration = Duration::from_secs(2);

/// How long a read waits for one of several conductors before the next one is asked as well.
const HEDGE: Duration = Duration::from_millis(500);

/// How long the conductor that is known has before others are asked whether they lead.
const HEAD_START: Duration = Duration::from_millis(100);

/// How long a conductor may take to say whether it leads.
const KNOCK_MAX: Duration = Duration::from_millis(700);

/// How long a leader is looked for. An election takes a few seconds.
const SEARCH_MAX: Duration = Duration::from_secs(15);

/// The pause before the next one is asked, where nobody leads.
const PAUSE: Duration = Duration::from_millis(150);

/// How often in a row one conductor may send on to another.
const SENT_ON_MAX: u32 = 4;

/// Requests that may be carried out twice: what a repetition gives is in `docs/api.md`.
const REPEATABLE: [&str; 11] = [
    "attach",
    "detach",
    "enrol",
    "flattened",
    "heartbeat",
    "hold",
    "in-sync",
    "layers",
    "maps",
    "register",
    "renew",
];

/// The conductors of one cluster. Clones share what they learn.
#[derive(Clone, Debug)]
pub(super) struct Conductors {
    all: Arc<[Url]>,
    /// The one to ask first; the leader may be one that was not named.
    first: Arc<Mutex<Url>>,
}

/// What came of one attempt.
enum Attempt {
    Done(Response),
    /// It was not carried out; who leads is there.
    SentOn(Url),
    /// It was not carried out: nobody leads.
    NoLeader(Problem),
    Failed(ApiError),
}

impl Attempt {
    /// Whether the conductor has said something that counts.
    fn is_answer(&self) -> bool {
        match self {
            Self::Done(_) | Self::SentOn(_) => true,
            Self::NoLeader(_) => false,
            Self::Failed(error) => {
                !error.is_unreachable() && !matches!(error, ApiError::NoAnswer { .. })
            }
        }
    }
}

impl Conductors {
    /// Those at `http://HOST:PORT` or `HOST:PORT`, with commas between them.
    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        let all: Result<Vec<Url>, ApiError> = text.split(',').map(|one| base(one.trim())).collect();
        let all = all?;
        let wrong = || ApiError::Address {
            text: text.to_owned(),
        };
        let first = all.first().cloned().ok_or_else(wrong)?;
        if all.iter().any(|one| one.scheme() != first.scheme()) {
            return Err(wrong());
        }
        Ok(Self {
            all: all.into(),
            first: Arc::new(Mutex::new(first)),
        })
    }

    /// The one to ask first.
    pub(super) fn first(&self) -> Url {
        let first = self.first.lock();
        first.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether they are reached by TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.first().scheme() == "https"
    }

    /// Whether there are others to ask.
    pub(super) fn are_several(&self) -> bool {
        self.all.len() > 1
    }

    /// Sends, and turns what is no success into an error.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response, ApiError> {
        let (http, request) = request.build_split();
        let first = self.first();
        let mut request = request.map_err(|error| super::strange(&first, root_cause(&error)))?;
        let is_repeatable = is_repeatable(&request);
        let is_hedged = self.are_several() && may_be_hedged(&request);
        if self.are_several() && is_repeatable {
            let timeout = request.timeout().copied().unwrap_or(ANSWER_MAX);
            *request.timeout_mut() = Some(timeout.saturating_sub(ANSWER_MAX) + ATTEMPT_MAX);
        }
        let deadline = Instant::now() + SEARCH_MAX;
        let is_once = request.headers().contains_key(once::HEADER);
        let mut is_in_doubt = false;
        let (mut sent_on, mut url) = (0, first);
        if self.are_several() && (is_once || !is_repeatable) {
            url = self.find(&http, &request, deadline).await.unwrap_or(url);
        }
        loop {
            let Some(again) = request.try_clone() else {
                return Err(super::strange(
                    &url,
                    "the request cannot be sent".to_owned(),
                ));
            };
            let attempted = if is_hedged {
                let (by, attempted) = self.attempt_hedged(&http, again, &url).await;
                url = by;
                attempted
            } else {
                attempt(&http, again, &url).await
            };
            let error = match attempted {
                Attempt::Done(response) => {
                    self.learn(url);
                    return Ok(response);
                }
                Attempt::SentOn(leader) if sent_on < SENT_ON_MAX => {
                    sent_on += 1;
                    url = leader;
                    continue;
                }
                Attempt::SentOn(_) => unreachable(&url, "conductors send in circles"),
                Attempt::NoLeader(problem) => ApiError::Refused(problem),
                Attempt::Failed(error) => error,
            };
            let may_have_happened = matches!(error, ApiError::NoAnswer { .. });
            is_in_doubt |= may_have_happened && is_once;
            let is_over = Instant::now() >= deadline || (may_have_happened && !is_repeatable);
            let is_final = match &error {
                ApiError::Refused(problem) => !passes(problem, is_repeatable),
                ApiError::Strange { .. }
                | ApiError::Address { .. }
                | ApiError::NoTrust { .. }
                | ApiError::Tls(_) => true,
                ApiError::Unreachable { .. } | ApiError::NoAnswer { .. } => false,
            };
            let next = self.after(&url);
            if is_final {
                // It leads, and refuses.
                self.learn(url);
                return Err(error);
            }
            self.learn(next.clone());
            if !(self.are_several() || is_in_doubt) || is_over {
                return Err(error);
            }
            (sent_on, url) = (0, next);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The conductor that says that it leads, if one does until `deadline`. All are asked side by side, the one
    /// that is known a moment before the others: one that hangs holds up nobody.
    async fn find(&self, http: &reqwest::Client, of: &Request, deadline: Instant) -> Option<Url> {
        let token = of.headers().get(AUTHORIZATION).cloned();
        let knock_at = |url: Url, pause: Duration| {
            let (http, token) = (http.clone(), token.clone());
            async move {
                tokio::time::sleep(pause).await;
                let said = knock(&http, token, &url).await;
                (url, said)
            }
        };
        let first = self.first();
        let mut waiting: VecDeque<Url> = self.all.iter().cloned().collect();
        waiting.retain(|url| *url != first);
        let mut asked = vec![first.clone()];
        let mut knocks = JoinSet::new();
        knocks.spawn(knock_at(first, Duration::ZERO));
        let is_over = tokio::time::sleep_until(deadline);
        tokio::pin!(is_over);
        loop {
            tokio::select! {
                Some(Ok((url, said))) = knocks.join_next() => match said {
                    Knocked::Leads => {
                        self.learn(url.clone());
                        return Some(url);
                    }
                    // It has no such question: then it says itself what is wrong.
                    Knocked::Strange => return Some(url),
                    Knocked::Follows(leader) if !asked.contains(&leader) => {
                        waiting.retain(|url| *url != leader);
                        waiting.push_front(leader);
                        knocks.spawn(knock_at(url, PAUSE));
                    }
                    Knocked::Follows(_) | Knocked::Nothing => {
                        knocks.spawn(knock_at(url, PAUSE));
                    }
                },
                () = tokio::time::sleep(HEAD_START), if !waiting.is_empty() => {}
                () = &mut is_over => return None,
            }
            if let Some(next) = waiting.pop_front() {
                asked.push(next.clone());
                knocks.spawn(knock_at(next, Duration::ZERO));
            }
        }
    }

    /// Sends what may be sent twice and waits for nobody; where no answer comes soon, to the next one as well.
    /// Gives who answered.
    async fn attempt_hedged(
        &self,
        http: &reqwest::Client,
        request: Request,
        url: &Url,
    ) -> (Url, Attempt) {
        let Some(again) = request.try_clone() else {
            let done = attempt(http, request, url).await;
            return (url.clone(), done);
        };
        let mut first = pin!(attempt(http, request, url));
        if let Ok(done) = tokio::time::timeout(HEDGE, first.as_mut()).await {
            return (url.clone(), done);
        }
        let next = self.after(url);
        let mut second = pin!(attempt(http, again, &next));
        let (is_first, done) = tokio::select! {
            done = first.as_mut() => (true, done),
            done = second.as_mut() => (false, done),
        };
        // One that follows sends on to the one that is still at it: that one's answer is waited for.
        let is_sent_back = matches!(&done, Attempt::SentOn(leader) if !is_first && leader == url);
        match (is_first, done.is_answer() && !is_sent_back) {
            (true, true) => (url.clone(), done),
            (false, true) => (next.clone(), done),
            (true, false) => (next.clone(), second.await),
            (false, false) => (url.clone(), first.await),
        }
    }

    fn learn(&self, url: Url) {
        *self.first.lock().unwrap_or_else(PoisonError::into_inner) = url;
    }

    /// The one to ask when that one does not answer.
    fn after(&self, url: &Url) -> Url {
        let index = self.all.iter().position(|one| one == url);
        let next = index.map_or(0, |index| (index + 1) % self.all.len());
        self.all[next].clone()
    }
}

/// Whether another conductor, or the same one a moment later, may answer otherwise.
fn passes(problem: &Problem, is_repeatable: bool) -> bool {
    match problem.code.as_str() {
        "no-leader" => true,
        "lead-lost" | "metadata-unavailable" | "outcome-unknown" | "stopping" => is_repeatable,
        _ => false,
    }
}

fn unreachable(url: &Url, reason: &str) -> ApiError {
    ApiError::Unreachable {
        url: url.clone(),
        reason: reason.to_owned(),
    }
}

fn base(one: &str) -> Result<Url, ApiError> {
    let wrong = || ApiError::Address {
        text: one.to_owned(),
    };
    let text = if one.contains("://") {
        one.to_owned()
    } else {
        format!("http://{one}")
    };
    let base: Url = text.parse().map_err(|_| wrong())?;
    let is_http = matches!(base.scheme(), "http" | "https");
    let is_plain = is_http && !base.cannot_be_a_base() && base.host_str().is_some();
    if one.starts_with("unix:") || !is_plain {
        return Err(wrong());
    }
    Ok(base)
}

/// Points a request that was made for one conductor at another.
fn aim(request: &mut Request, at: &Url) {
    let url = request.url_mut();
    // Both are `http` or `https` with a host, which these refuse nothing of.
    let _ = url.set_scheme(at.scheme());
    let _ = url.set_host(at.host_str());
    let _ = url.set_port(at.port());
}

fn is_repeatable(request: &Request) -> bool {
    let last = request
        .url()
        .path_segments()
        .and_then(|mut path| path.next_back());
    *request.method() == Method::GET
        || request.headers().contains_key(once::HEADER)
        || *request.method() == Method::POST && last.is_some_and(|last| REPEATABLE.contains(&last))
}

/// Whether it reads, and waits for nobody: one that waits for a change is silent until there is one.
fn may_be_hedged(request: &Request) -> bool {
    let waits = request.timeout().is_some_and(|time| *time > ANSWER_MAX);
    *request.method() == Method::GET && !waits
}

async fn attempt(http: &reqwest::Client, mut request: Request, url: &Url) -> Attempt {
    aim(&mut request, url);
    let response = match http.execute(request).await {
        Ok(response) => response,
        Err(error) => {
            let (url, reason) = (url.clone(), root_cause(&error));
            return Attempt::Failed(if error.is_connect() {
                ApiError::Unreachable { url, reason }
            } else {
                ApiError::NoAnswer { url, reason }
            });
        }
    };
    let status = response.status();
    if status.is_success() {
        return Attempt::Done(response);
    }
    if let Some(leader) = leader_of(&response, url) {
        return Attempt::SentOn(leader);
    }
    match response.json::<Problem>().await {
        Ok(problem) if problem.code == "no-leader" => Attempt::NoLeader(problem),
        Ok(problem) => Attempt::Failed(ApiError::Refused(problem)),
        Err(_) => Attempt::Failed(super::strange(url, format!("it answers {status}"))),
    }
}

/// What a conductor says of who leads.
enum Knocked {
    Leads,
    Follows(Url),
    /// Nothing, or that it knows of nobody.
    Nothing,
    /// Something else than a conductor says.
    Strange,
}

/// `GET /v1/leader`, as whoever has that token.
async fn knock(http: &reqwest::Client, token: Option<HeaderValue>, url: &Url) -> Knocked {
    let mut at = url.clone();
    at.set_path("/v1/leader");
    let mut question = Request::new(Method::GET, at);
    *question.timeout_mut() = Some(KNOCK_MAX);
    if let Some(token) = token {
        question.headers_mut().insert(AUTHORIZATION, token);
    }
    let Ok(response) = http.execute(question).await else {
        return Knocked::Nothing;
    };
    if !response.status().is_success() {
        return Knocked::Strange;
    }
    let Ok(said) = response.json::<LeaderSaid>().await else {
        return Knocked::Strange;
    };
    let leader = said.leader.and_then(|leader| base(&leader).ok());
    // Never from TLS to none.
    let leader = leader.filter(|leader| leader.scheme() == url.scheme());
    match (said.leads, leader) {
        (true, _) => Knocked::Leads,
        (false, Some(leader)) => Knocked::Follows(leader),
        (false, None) => Knocked::Nothing,
    }
}

/// The answer to it.
#[derive(Deserialize)]
struct LeaderSaid {
    leads: bool,
    leader: Option<String>,
}

/// Where a conductor that does not lead sends; never from TLS to none.
fn leader_of(response: &Response, asked: &Url) -> Option<Url> {
    if response.status() != reqwest::StatusCode::TEMPORARY_REDIRECT {
        return None;
    }
    let mut leader: Url = response
        .headers()
        .get(LOCATION)?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    leader.set_path("/");
    leader.set_query(None);
    (leader.scheme() == asked.scheme() && leader.host_str().is_some()).then_some(leader)
}

#[cfg(test)]
mod tests;
