*** Settings ***
Documentation       What an operator can see of a database without changing it.

Resource            resources/database.resource

Suite Setup         Choose An Engine
Test Teardown       Drop Database


*** Test Cases ***
Database And Revision Are Shown
    Start With The Deployed Database
    ${shown}    Name As Shown    ${URL}
    Run With Either Command    current    ${URL}
    Command Should Succeed
    Messages Should Begin With    database: ${shown}
    Messages Should Contain    ${FORMER}
    Nothing Should Have Changed

The Default Is Marked As Such
    [Tags]    any-engine
    Run Elsewhere    cleveragents-plans upgrade
    Command Should Succeed
    Messages Should Begin With    database: sqlite:///plans.db (the default, in

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
    Messages Should Contain    UPDATE public.alembic_version SET version_num='${NEWEST}'
    Nothing Should Have Changed
