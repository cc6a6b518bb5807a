*** Settings ***
Documentation       An operator follows the pages operations.md and backup-and-restore.md, as they stand there.

Resource            resources/database.resource

Suite Setup         Choose An Engine
Test Teardown       Drop Database


*** Variables ***
# Where a run is killed: in the middle of the backfill, and of the copy of the table.
&{HALF_WAY}         postgresql=WITH RECURSIVE batch    sqlite=DROP TABLE


*** Test Cases ***
Upgrade Is Prepared, Done And Proven
    Start With A Sound Database
    Type From The Page    operations.md    Before    1
    Command Should End With    3
    Messages Should Contain    run `cleveragents-plans upgrade`
    Type From The Page    operations.md    Before    2
    Command Should Succeed
    ${before}    Fingerprint Shown
    Type From The Page    operations.md    Before    3
    Command Should Succeed
    Messages Should Contain    ready
    Type From The Page    operations.md    During
    Command Should Succeed
    Messages Should Contain    ${FORMER} -> ${NEWEST}
    Type From The Page    operations.md    After
    Command Should Succeed
    Messages Should Contain    ready
    Messages Should Contain    sound
    ${after}    Fingerprint Shown
    Should Be Equal    ${before}    ${after}

Rollback Is Done And Proven
    Start With A Sound Database
    Upgrade To    head
    Store Plans    profile=cautious
    Type From The Page    operations.md    After
    ${before}    Fingerprint Shown
    Type From The Page    operations.md    Rollback
    Command Should Succeed
    Messages Should Contain    sound
    ${after}    Fingerprint Shown
    Should Be Equal    ${before}    ${after}
    Former Release Should Read Every Plan

Killed Upgrade Is Completed By The Same Command
    Start With A Sound Database
    Kill The Upgrade Half Way
    Run Command    cleveragents-plans current --check-heads    ${URL}
    Command Should End With    1
    Type From The Page    operations.md    During
    Command Should Succeed
    Every Plan Should Name Its Root
    Type From The Page    operations.md    After
    Command Should Succeed

Killed Upgrade Is Rolled Back Instead
    Start With A Sound Database    rows=pure
    Kill The Upgrade Half Way
    Type From The Page    operations.md    Rollback
    Command Should Succeed
    Messages Should Contain    sound
    Nothing Should Have Changed

Pods Wait Until A Job Has Migrated
    Start With A Sound Database
    Run At Once    ${URL}
    ...    cleveragents-plans status --wait 60
    ...    cleveragents-plans status --wait 60
    ...    cleveragents-plans upgrade
    Command Should Succeed
    Messages Should Contain    ready    times=2

Every Schema Is Upgraded And Proven
    [Documentation]    Only PostgreSQL has schemas: on SQLite that is refused.
    Start With A Sound Database
    ${engine}    Engine Of The Database
    ${statuses}    Create Dictionary    postgresql=${{[3, 0, 0]}}    sqlite=${{[1, 1, 1]}}
    FOR    ${block}    ${status}    IN ENUMERATE    @{statuses}[${engine}]    start=1
        Type From The Page    fleets.md    Step by step, at night    ${block}
        Command Should End With    ${status}
    END

Backup Is Restored After An Upgrade
    Start With A Sound Database
    Back Up
    Upgrade To    head
    Restore
    No Row Should Have Changed
    Upgrade To    head
    Every Plan Should Name Its Root

Backup Of A Killed Upgrade Is Whole
    [Documentation]    PostgreSQL: the note is part of the dump. SQLite: the journal is rolled back.
    Start With A Sound Database
    Kill The Upgrade Half Way
    Back Up
    ${engine}    Engine Of The Database
    ${status}    Set Variable If    $engine == 'postgresql'    3    0
    Restore    status=${status}
    Database Should Be Half Way
    Upgrade To    head
    Every Plan Should Name Its Root

Backup Of The New Schema Is Restored
    Start With A Sound Database
    Upgrade To    head
    Store Plans    profile=cautious
    Remember
    Back Up
    Downgrade To    ${FORMER}
    Restore
    No Row Should Have Changed
    Type From The Page    operations.md    After
    Command Should Succeed


*** Keywords ***
Start With A Sound Database
    [Arguments]    ${rows}=all
    Start With The Deployed Database    ${rows}
    Detach Plans Without Their Parent
    Remember

Kill The Upgrade Half Way
    ${engine}    Engine Of The Database
    Kill Upgrade    ${URL}    ${HALF_WAY}[${engine}]
    Database Should Be Half Way

Database Should Be Half Way
    [Documentation]    PostgreSQL: between two revisions. SQLite: as before the run.
    ${engine}    Engine Of The Database
    Type From The Page    operations.md    Before    1
    IF    $engine == 'postgresql'
        Command Should End With    4
        Messages Should Contain    run `cleveragents-plans upgrade
        Messages Should Contain    or `cleveragents-plans downgrade ${FORMER}`
    ELSE
        Command Should End With    3
        No Row Should Have Changed
    END

Back Up
    ${name}    Name Of The Engine
    Type From The Page    backup-and-restore.md    ${name}: backup
    Command Should Succeed

Restore
    [Documentation]    The test goes on with the database that was restored, as `verify` found it.
    [Arguments]    ${status}=0
    ${name}    Name Of The Engine
    Type From The Page    backup-and-restore.md    ${name}: restore
    Command Should End With    ${status}
    ${url}    Restored Url    ${URL}
    Go On With    ${url}
    VAR    ${URL}    ${url}    scope=TEST

Name Of The Engine
    ${engine}    Engine Of The Database
    ${name}    Set Variable If    $engine == 'postgresql'    PostgreSQL    SQLite
    RETURN    ${name}
