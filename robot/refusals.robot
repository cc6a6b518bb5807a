*** Settings ***
Documentation       Something is wrong, and one line says what, from either command.
...                 The tests that say nothing of the engine have the tag `any-engine`.

Resource            resources/database.resource

Suite Setup         Choose An Engine
Test Teardown       Drop Database


*** Test Cases ***
URL That Cannot Be Read
    [Tags]    any-engine
    Run With Either Command    upgrade head    url=me:s3cret@host/plans
    Command Should Be Refused    the database URL cannot be read    expected sqlite:///plans.db or
    Messages Should Not Contain    s3cret

Engine That Is Not Supported
    [Tags]    any-engine
    Run Command    alembic upgrade head    url=mysql://me:s3cret@host/plans
    Command Should Be Refused    names 'mysql', which is not supported
    Messages Should Not Contain    s3cret

Server That Is Not There
    [Tags]    any-engine
    Run Command    cleveragents-plans upgrade head    url=postgresql://me:s3cret@127.0.0.1:1/plans
    Command Should Be Refused    me:***@127.0.0.1:1/plans cannot be opened    nothing was changed
    Messages Should Not Contain    s3cret

File That Is No Database
    [Tags]    any-engine
    ${url}    Make File    Not a database, but long enough to be mistaken for one.
    Run With Either Command    upgrade head    ${url}
    Command Should Be Refused    file is not a database    nothing was changed

File That Is Read-Only
    [Tags]    any-engine
    ${url}    Make File    ${EMPTY}    writable=False
    Run Command    alembic upgrade head    ${url}
    Command Should Be Refused    is read-only    nothing was changed

Folder That Does Not Exist
    [Tags]    any-engine
    Run Command    cleveragents-plans upgrade head --create    url=sqlite:////no/such/folder/plans.db
    Command Should Be Refused    cannot be opened    nothing was changed

File That Does Not Exist
    [Tags]    any-engine
    Run Command    alembic current    url=sqlite:////no/such/folder/plans.db
    Command Should Be Refused    there is no file    check the path

Script For SQLite
    [Documentation]    It cannot be written without a look at what the file holds.
    [Tags]    any-engine
    Run Command    cleveragents-plans upgrade head --sql    url=sqlite:///plans.db
    Command Should Be Refused    --sql cannot be written for SQLite

Unknown Revision
    Start With A New Database
    Remember
    Run With Either Command    upgrade m9_999    ${URL}
    Command Should Be Refused    'm9_999'    known: ${NEWEST}
    Nothing Should Have Changed

Database Of A Later Release
    Start With A New Database
    Stamp    m9_999
    Remember
    Run Command    alembic upgrade head    ${URL}
    Command Should Be Refused    at revision 'm9_999', which this release does not know
    Nothing Should Have Changed
