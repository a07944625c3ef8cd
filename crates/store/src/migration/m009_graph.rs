//! What people say about tasks, and the versions of INDEX.md.

/// See the file's head.
pub(super) const SCHEMA: &str = "
-- JSON of TaskDetails.
ALTER TABLE tasks ADD COLUMN details TEXT;

CREATE TABLE index_versions (
    run_id {id} NOT NULL,
    version {bigint} NOT NULL CHECK (version >= 1),
    hash {bytes} NOT NULL,
    agent TEXT NOT NULL,
    created_at {bigint} NOT NULL,
    PRIMARY KEY (run_id, version)
){clustered};

-- What runs had until now is their first version.
INSERT INTO index_versions (run_id, version, hash, agent, created_at)
SELECT id, 1, index_hash, 'crew', created_at FROM runs WHERE index_hash IS NOT NULL;
";
