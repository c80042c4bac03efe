use super::Answer;

const CURE: &str = "add the host that the check asks for (default `127.0.0.1`, see the Host \
                    header of the check) to ALLOWED_HOSTS in Django's settings, or give the \
                    check a Host header that is allowed";

/// Recognises Django's answer to a host name that is not in `ALLOWED_HOSTS`.
///
/// With `DEBUG` the page names the exception; without it the answer is a bare
/// "Bad Request (400)" and only the log may name it.
/// <https://docs.djangoproject.com/en/5.2/ref/settings/#allowed-hosts>
pub(crate) fn cure_for_disallowed_host(answer: &Answer, log: &[String]) -> Option<String> {
    if answer.status != 400 {
        return None;
    }
    let named =
        |text: &str| text.contains("DisallowedHost") || text.contains("Invalid HTTP_HOST header");
    if named(&answer.body_head) || log.iter().any(|line| named(line)) {
        return Some(format!("this is Django's DisallowedHost: {CURE}"));
    }
    if answer.body_head.contains("<h1>Bad Request (400)</h1>") {
        return Some(format!("probably Django's DisallowedHost: {CURE}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_recognised_in_the_body_in_the_log_and_by_the_bare_page() {
        let debug = Answer::new(400, "<title>DisallowedHost\n at /</title>");
        assert!(
            cure_for_disallowed_host(&debug, &[])
                .unwrap()
                .contains("this is")
        );
        let bare = Answer::new(400, "<!doctype html>\n<h1>Bad Request (400)</h1>");
        assert!(
            cure_for_disallowed_host(&bare, &[])
                .unwrap()
                .contains("probably")
        );
        let log = ["Invalid HTTP_HOST header: 'x'. You may need".to_owned()];
        assert!(
            cure_for_disallowed_host(&bare, &log)
                .unwrap()
                .contains("this is")
        );
    }

    #[test]
    fn other_answers_are_not_blamed_on_it() {
        let other = Answer::new(400, "missing parameter");
        assert_eq!(cure_for_disallowed_host(&other, &[]), None);
        let error = Answer::new(500, "DisallowedHost");
        assert_eq!(cure_for_disallowed_host(&error, &[]), None);
    }
}
