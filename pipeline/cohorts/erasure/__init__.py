"""``edgealign cohort forget``: the erasure of one person. Start at :func:`pipeline.cohorts.erasure.forget.forget_user`."""
