"""The account surface of a Dify server (/openapi/v1): for people who sign in rather than hold an app key."""
