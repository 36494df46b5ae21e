from hypothesis import settings

# A loaded machine takes its time; only the whole test's timeout counts.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
