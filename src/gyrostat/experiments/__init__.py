"""One recipe per published experiment, each with the published number beside ours."""
