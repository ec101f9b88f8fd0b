"""Certificates, identities and admission of members: import the module that you mean."""
