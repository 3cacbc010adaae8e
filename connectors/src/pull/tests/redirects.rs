//! Redirects: where they lead, and where they do not.

use std::net::Ipv4Addr;

use super::lab::*;
use crate::Context;
use crate::pull::http_poll;
use crate::pull::poll::Wanted;

fn running(url: &str, context: &Context) -> Running {
    let pairs = [("url", url), ("interval", "100 ms"), ("token", "hush"), ("query.key", "hidden")];
    Running::new(http_poll("s", &mut options(&pairs), Wanted::Json, context).expect("good options"), vec![])
}

#[tokio::test]
async fn a_redirect_is_followed_and_only_the_origin_is_told_who_we_are() {
    let other = Server::new([ok("{\"v\":2}")]).await;
    let server = Server::new([redirect("/there?x=1"), ok("{\"v\":1}"), redirect(&format!("{}/away", other.url))]).await;
    let running = running(&server.url, &context(""));
    assert_eq!(running.until_appended(2).await[..2], ["{\"v\":1}", "{\"v\":2}"]);
    let (asked, away) = (server.asked(), other.asked());
    assert!(asked[0].contains("get /?key=hidden ") && asked[0].contains("bearer hush"), "{}", asked[0]);
    assert!(asked[1].contains("get /there?x=1&key=hidden ") && asked[1].contains("bearer hush"), "{}", asked[1]);
    assert!(away[0].contains("get /away ") && !away[0].contains("hush"), "{}", away[0]);
    running.stop().await;
}

#[tokio::test]
async fn a_redirect_from_outside_leads_to_no_inner_address() {
    // Loopback has many addresses: one of them plays the internet.
    let inner = Server::at(Ipv4Addr::new(127, 0, 0, 2), [ok("{\"secret\":1}")]).await;
    let outer = Server::new([redirect(&inner.url)]).await;
    let outside = running(&outer.url, &context("127.0.0.1"));
    outside.until_counted("forbidden", 2).await;
    let error = outside.source.targets().remove(0).error.unwrap_or_default();
    assert!(error.contains("127.0.0.2 is a loopback address"), "{error}");
    assert_eq!((outside.payloads().len(), inner.asked().len()), (0, 0), "nobody was asked");
    outside.stop().await;

    // Among one's own machines a redirect may lead anywhere, and so may one that the configuration allows.
    for allow in ["", "127.0.0.0/8"] {
        let inside = running(&outer.url, &context(allow));
        assert_eq!(inside.until_appended(1).await[0], "{\"secret\":1}");
        inside.stop().await;
    }
}

#[tokio::test]
async fn redirects_have_a_bound_and_must_say_where_to() {
    for (reply, words) in [
        (redirect("/again"), "more than 5 redirects"),
        (answer("307 Temporary Redirect", &[], b""), "does not say where to"),
        (redirect("ftp://h/"), "a redirect to ftp://"),
        (redirect("http://[::1"), "a redirect to no URL"),
    ] {
        let server = Server::new([reply]).await;
        let running = running(&server.url, &context(""));
        running.until_counted("redirect", 1).await;
        let error = running.source.targets().remove(0).error.unwrap_or_default();
        assert!(error.contains(words) && !error.contains("hidden"), "{error}");
        running.stop().await;
    }
}
