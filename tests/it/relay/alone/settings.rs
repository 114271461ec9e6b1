//! What it keeps of a server's settings.

use santa_sync::harness::{FakeServer, SyncTypePolicy};
use santa_sync::model::{ClientMode, Stage, SyncType};
use santa_sync::protocol::wire;

use super::lose;
use crate::relay::link::Loss;
use crate::relay::santa::{Age, Santa, Status};

/// Settings are kept where the server is silent, in clean syncs too before 2026.4;
/// they apply whatever postflight comes to.
#[test]
fn settings_are_kept_cleared_and_applied_as_each_release_does() {
    #[expect(deprecated, reason = "servers send both")]
    let set = |settings: &mut wire::PreflightResponse| {
        settings.set_client_mode(wire::ClientMode::Lockdown);
        settings.enable_bundles = Some(true);
        settings.disable_unknown_event_upload = Some(true);
        settings.allowed_path_regex = Some("^/opt/".to_owned());
        settings.block_usb_mount = Some(true);
        settings.remount_usb_mode = vec!["rdonly".to_owned()];
        settings.set_override_file_access_action(wire::FileAccessAction::AuditOnly);
        settings.full_sync_interval_seconds = 30;
        settings.batch_size = 2;
    };
    for age in Age::ALL {
        let server = FakeServer::builder().sync_type(SyncTypePolicy::AsRequested).start().unwrap();
        server.change_settings(set);
        let santa = Santa::new(age, &server.url());
        let done = santa.sync_with(&mut lose(Stage::Postflight, Loss::Request));
        assert_eq!((done.status, server.count(Stage::Postflight)), (Status::Success, 0));
        let given = santa.settings();
        assert_eq!(given["media"], "Remount rdonly");
        assert_eq!(given["client_mode"], "LOCKDOWN");
        assert!(!given.contains_key("override_file_access_action"), "{given:?}");
        assert_eq!((santa.interval(), santa.client_mode()), (60, ClientMode::Lockdown));

        server.change_settings(|settings| *settings = wire::PreflightResponse::default());
        santa.sync();
        assert_eq!(santa.settings(), given, "{age:?}: absent is kept");
        santa.restart();
        assert!(!santa.settings().contains_key("disable_unknown_event_upload"));
        santa.require(SyncType::Clean);
        assert_eq!(santa.sync().sync_type, SyncType::Clean);
        assert_eq!(santa.settings().is_empty(), age == Age::Y2026M7, "{age:?}");
        assert_eq!(santa.required(), SyncType::Normal);
        santa.lose_state();
        assert_eq!(santa.required(), SyncType::CleanAll, "an empty state asks for all");
        santa.lose_rules();
        assert_eq!(santa.required(), SyncType::CleanAll);
    }
}

/// Newer releases take the newer name, older ones the pair that it replaces.
#[test]
fn removable_media_are_known_by_the_name_of_their_time() {
    use wire::removable_media_policy::Action;
    let server = FakeServer::builder().start().unwrap();
    #[expect(deprecated, reason = "servers send both")]
    server.change_settings(|settings| {
        settings.block_usb_mount = Some(false);
        let policy = |action| Some(wire::RemovableMediaPolicy { action: Some(action) });
        settings.removable_media_policy = policy(Action::Block(true));
        settings.encrypted_removable_media_policy = policy(Action::Allow(true));
    });
    for age in Age::ALL {
        let santa = Santa::new(age, &server.url());
        santa.sync();
        let given = santa.settings();
        if age.knows_media_policies() {
            assert_eq!((&*given["media"], &*given["encrypted_media"]), ("Block", "Allow"));
        } else {
            assert_eq!((&*given["media"], given.get("encrypted_media")), ("Allow", None));
        }
    }
}
