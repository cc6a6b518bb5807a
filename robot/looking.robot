*** Settings ***
Documentation       An operator looks before they act, and nothing is changed by it.

Resource            resources/database.resource

Suite Setup         Choose An Engine
Suite Teardown      Forget Databases
Test Teardown       Throw Database Away


*** Test Cases ***
The Database Is Named First
    Start With An Empty Database
    Run With Either Command    upgrade head    ${URL}
    Command Should Succeed
    Operator Should Read First    database: ${ENGINE.split('-')[0]}

The Default Is Marked As Such
    Run Elsewhere    cleveragents-plans upgrade
    Command Should Succeed
    Operator Should Read First    database: sqlite:///plans.db (the default, in

The Revision Is Told
    Start With The Deployed Database
    Run With Either Command    current    ${URL}
    Command Should Succeed
    Operator Should Read    ${FORMER}
    Nothing Should Have Changed

The Chain Has One Head
    Run Command    alembic heads
    Command Should Succeed
    ${output}    Last Output
    Should Be Equal    ${output.strip()}    ${NEWEST} (head)

The Chain Tells What It Does
    Run Command    alembic history
    Command Should Succeed
    Operator Should Read    ${FORMER} -> ${NEWEST} (head), Give every plan its root

A Script Can Be Read Beforehand
    Only On    postgresql
    Start With The Deployed Database
    Run With Either Command    upgrade ${FORMER}:head --sql    ${URL}
    Command Should Succeed
    Operator Should Read    UPDATE alembic_version SET version_num='${NEWEST}'
    Nothing Should Have Changed
