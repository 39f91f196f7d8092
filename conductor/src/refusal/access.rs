//! Why somebody may not do what is asked, or users, keys, tokens and projects cannot be as asked.

use ashlar_proto::ByteCount;

/// See the module.
#[expect(
    missing_docs,
    reason = "each message says what its variant and fields are"
)]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessRefusal {
    #[error(
        "who asks is not known: give a key or a token, with --token-file, ASHLAR_TOKEN_FILE or \
         ~/.config/ashlar/config.toml"
    )]
    NotKnown,
    #[error("the key or token is not one of this cluster: make another with `ashlar key create`")]
    Wrong,
    #[error("the key or token has ended: make another")]
    Expired,
    #[error("the key or token was revoked: make another")]
    Revoked,
    #[error(
        "`{host}` is no name of this conductor's, as a web page of elsewhere would have a browser say: ask by \
         an IP address or `localhost`, or show a key or a token"
    )]
    ForeignHost { host: String },
    #[error("user `{user}` is denied: `ashlar user allow {user}` lets it in again")]
    UserDenied { user: String },
    #[error("too many wrong keys and tokens came from there: wait {seconds} s")]
    TooOften { seconds: u64 },
    #[error("`{who}` is a {role} and may not do that: it takes {needed}")]
    Role {
        who: String,
        role: &'static str,
        needed: &'static str,
    },
    #[error("`{who}` may do nothing in project `{project}`")]
    OtherProject { who: String, project: String },
    #[error("`{who}` may do that in some projects only, and this concerns the whole cluster")]
    NotWhole { who: String },
    #[error(
        "a token makes no tokens: ask with a key, so that what was once given away ends by itself"
    )]
    TokenByToken,
    #[error("give the user of the token: there is none who asks")]
    TokenOfNobody,
    #[error("a token is good for 1 to {most} seconds, not for {given}")]
    TokenTime { given: u64, most: u64 },
    #[error("`{id}` is no token's id: it is the `jti` that `ashlar token create` tells")]
    TokenId { id: String },
    #[error("there is no user `{user}`: see `ashlar user list`")]
    NoUser { user: String },
    #[error("a user `{user}` exists already")]
    UserExists { user: String },
    #[error("`{user}` is the last admin, and there are other users: make another admin first")]
    LastAdmin { user: String },
    #[error("there is no key `{id}`: see `ashlar key list`")]
    NoKey { id: String },
    #[error("there is no project `{project}`: see `ashlar project list`")]
    NoProject { project: String },
    #[error("a project `{project}` exists already")]
    ProjectExists { project: String },
    #[error("project `{project}` has {volumes} volumes: delete them first")]
    ProjectInUse { project: String, volumes: u64 },
    #[error("project `{project}` is that of volumes with plain names: it is always there")]
    DefaultProject { project: String },
    #[error(
        "project `{project}` has {used} bytes of volumes and may have {quota}, {more} more are asked \
         for: delete some, or raise its quota with `ashlar project quota`"
    )]
    QuotaBytes {
        project: String,
        used: ByteCount,
        quota: ByteCount,
        more: ByteCount,
    },
    #[error(
        "project `{project}` has {quota} volumes and may have no more: delete some, or raise its \
         quota with `ashlar project quota`"
    )]
    QuotaVolumes { project: String, quota: u64 },
    #[error(
        "volume `{volume}` is attached and read only by who gives its key: put it into the file of \
         --volume-keys"
    )]
    VolumeKey { volume: String },
}
