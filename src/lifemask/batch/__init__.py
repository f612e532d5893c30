"""Many photos to heads: resumable, by processes of this machine or a Ray cluster; `docs/scale.md`.

`find_photos` (`sources`) lists what there is to do, `run_batch` (`run`) does what is not yet done,
and `BatchJob` (`job`) says how.
"""
