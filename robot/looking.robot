*** Settings ***
Documentation       An operator looks before they act, and nothing is changed by it.

Resource            resources/database.resource

Suite Setup         Choose An Engine
Test Teardown       Throw Database Away


*** Test Cases ***
The Database And Its Revision Are Told
    Start With The Deployed Database
    ${shown}    Name As Shown    ${URL}
    Run With Either Command    current    ${URL}
    Command Should Succeed
    Operator Should Read First    database: ${shown}
    Operator Should Read    ${FORMER}
    Nothing Should Have Changed

The Default Is Marked As Such
    [Tags]    any-engine
    Run Elsewhere    cleveragents-plans upgrade
    Command Should Succeed
    Operator Should Read First    database: sqlite:///plans.db (the default, in

The Chain Has One Head
    [Tags]    any-engine
    Run Command    alembic heads
    Command Should Succeed
    Output Should Be    ${NEWEST} (head)

A Script Can Be Read Beforehand
    Only On    postgresql
    Start With The Deployed Database
    Run With Either Command    upgrade ${FORMER}:head --sql    ${URL}
    Command Should Succeed
    Operator Should Read    UPDATE alembic_version SET version_num='${NEWEST}'
    Nothing Should Have Changed
