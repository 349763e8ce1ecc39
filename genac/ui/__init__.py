"""What a person looks at: report, viewer, transcripts, figures. Their input is run folders."""
