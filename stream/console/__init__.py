"""The web console: one page that shows an application live, and what is known of one user. It only reads."""
