def note(job, tell):
    i, d = job
    tell(f"hello {i}")
    (d / str(i)).write_text("x")
    return i*i
