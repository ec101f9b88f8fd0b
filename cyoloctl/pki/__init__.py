"""Who is who by a certificate, and how one becomes a member: import the module that you mean."""
