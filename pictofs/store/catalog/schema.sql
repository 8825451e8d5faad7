-- The catalog: what the organization is known to hold. It can be rebuilt from the API at any time; content
-- is not in it (see blobs/cache.py). Several mounts, in several processes, write to one catalog (WAL).
--
-- A `key` is 51 bits of a hash of an item's id (model/inode.py): inode numbers are made of it.
-- A `seq` grows with every row ever added: folders are listed in its order, and it is the cookie that readdir
-- goes on from, so that rows that arrive while a folder is being read are appended, never missed.
-- An `entry` is the name in the folder (model/names.py).

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value
) WITHOUT ROWID;
-- 'checked_at'   wall-clock seconds when the list of datasets was last read whole
-- 'revision'      number that every change made here to the list raises: a list read across one may lack it
-- 'revised_at'    wall-clock seconds of the last such change, or of the last refresh made here
-- '1/refresh*'    the numbers of library/generations.py, as this machine knew them last
-- 'trait:*'      how this server does what the contract leaves open, and since when (library/server_traits.py)
-- 'pass'         number of the last listing pass; what a complete pass has not seen is gone

CREATE TABLE dataset (
    seq            INTEGER PRIMARY KEY AUTOINCREMENT,
    key            INTEGER NOT NULL UNIQUE,
    id             TEXT    NOT NULL,
    name           TEXT    NOT NULL,
    entry          TEXT    NOT NULL UNIQUE,
    image_count    INTEGER NOT NULL,
    total_size     INTEGER NOT NULL,      -- bytes
    created_ns     INTEGER NOT NULL,      -- nanoseconds since the epoch
    signature      TEXT    NOT NULL,      -- model Dataset.signature, as last seen
    raw            BLOB    NOT NULL,      -- the API's object, JSON
    raw_changes    INTEGER NOT NULL DEFAULT 0,  -- how often it has changed
    input_changes  INTEGER NOT NULL DEFAULT 0,  -- grows when rows of its images or directories may have changed
    classes_changes INTEGER NOT NULL DEFAULT 0, -- how often the classes in it have changed
    classes_ns     INTEGER NOT NULL DEFAULT 0,  -- when they last did, nanoseconds since the epoch; 0: never
    tree_at        REAL,                  -- when the directories were last read, NULL: never
    tree_signature TEXT,                  -- the signature before that reading
    listed_at      REAL,                  -- when all images had been listed, NULL: never
    listed_signature TEXT,                -- the signature that listing belongs to
    updated_at     TEXT,                  -- the server's word, as last listed
    annotations_due    REAL                   -- wall-clock seconds: annotation files that were confirmed before are due
);

CREATE TRIGGER dataset_changed AFTER UPDATE OF raw ON dataset WHEN OLD.raw != NEW.raw
BEGIN
    UPDATE dataset SET raw_changes = raw_changes + 1 WHERE key = NEW.key;
END;

CREATE TABLE directory (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    key         INTEGER NOT NULL UNIQUE,
    dataset     INTEGER NOT NULL,         -- key of the dataset
    parent      INTEGER,                  -- key of the directory above, NULL: the dataset's root
    path        TEXT    NOT NULL,         -- as the server spells it, canonical
    entry       TEXT    NOT NULL,
    image_count INTEGER NOT NULL,         -- images directly in it, as the server counts
    implicit     INTEGER NOT NULL,         -- 1: no row on the server, but images say that they are in it
    listed_at   REAL,                     -- when this directory alone was listed
    listed_signature TEXT
);
CREATE UNIQUE INDEX directory_entry ON directory (parent, entry) WHERE parent IS NOT NULL;
CREATE UNIQUE INDEX directory_path ON directory (dataset, path);

CREATE TABLE image (
    seq              INTEGER PRIMARY KEY AUTOINCREMENT,
    key              INTEGER NOT NULL UNIQUE,
    id               TEXT    NOT NULL,
    dataset          INTEGER NOT NULL,
    directory        INTEGER NOT NULL,
    entry            TEXT    NOT NULL,    -- in images/
    filename         TEXT,                -- NULL: the entry is the filename as it is
    annotation_entry   TEXT,                -- in annotations/; NULL: the entry with '.json' behind it
    size             INTEGER NOT NULL,    -- bytes, as the server says; 0: it does not know
    true_size        INTEGER,             -- bytes, where a download has shown another size
    created_ns       INTEGER NOT NULL,
    status           TEXT    NOT NULL,
    split            TEXT,
    annotation_count   INTEGER NOT NULL,
    min_confidence   REAL,
    width            INTEGER,
    height           INTEGER,
    content_type     TEXT,
    tags             TEXT,                -- JSON array; NULL: none
    seen             INTEGER NOT NULL,
    annotation_size    INTEGER,             -- bytes of the annotation file, NULL: never fetched
    annotation_crc32c  INTEGER,             -- CRC-32C of the annotation file
    annotation_version INTEGER NOT NULL DEFAULT 0,  -- grows when a fetch brings other bytes
    annotation_ns      INTEGER,             -- when a fetch brought other bytes than the one before
    annotation_stale   REAL NOT NULL DEFAULT 0,     -- wall-clock seconds when something said that the file may have
                                          -- changed; 1: another node did (library/generations.py); 0: nothing since
    annotation_checked REAL                 -- wall-clock seconds: the server had these bytes then, or later
);
-- Images of which other sizes were shown than the row says now, or that were removed for a time: a kernel may hold for
-- a day what it was told then, and so each open tells it anew. No row is ever removed, not even with its image.
CREATE TABLE former_image (
    key     INTEGER PRIMARY KEY,
    removed INTEGER NOT NULL              -- 1: the row was removed, and its versions of annotations are counted anew
);
CREATE TRIGGER image_resized AFTER UPDATE OF size, true_size ON image
WHEN (OLD.size != 0 AND OLD.size != NEW.size) OR OLD.true_size != coalesce(NEW.true_size, NEW.size)
BEGIN
    INSERT INTO former_image VALUES (OLD.key, 0) ON CONFLICT (key) DO NOTHING;
END;
CREATE TRIGGER image_removed AFTER DELETE ON image
BEGIN
    INSERT INTO former_image VALUES (OLD.key, 1) ON CONFLICT (key) DO UPDATE SET removed = 1;
END;

CREATE UNIQUE INDEX image_entry ON image (directory, entry);
CREATE INDEX image_directory ON image (directory);  -- with seq as its tail: the order of readdir
CREATE INDEX image_key ON image (directory, key);  -- the order of cp and tar: by inode number
CREATE UNIQUE INDEX image_annotation ON image (directory, annotation_entry) WHERE annotation_entry IS NOT NULL;
CREATE INDEX image_filename ON image (directory, filename) WHERE filename IS NOT NULL;
